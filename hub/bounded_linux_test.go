package hub

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// A bystander is a client in good order at an address of its own. It publishes
// and asks for the hub's health all the time, over connections of its own.
type bystander struct {
	w       *watch
	stop    chan struct{}
	working sync.WaitGroup
}

// standBy begins. Each request must be answered within some seconds.
func standBy(hub string) *bystander {
	b := &bystander{stop: make(chan struct{})}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 200)}}
	b.w = &watch{p: &hubProcess{addr: hub}, dial: dialer.DialContext}
	b.working.Go(func() { b.w.run(b.stop) })
	return b
}

// leave ends it, and fails the test if it was not served.
func (b *bystander) leave(t *testing.T) {
	t.Helper()
	close(b.stop)
	b.working.Wait()
	b.w.report(t)
	if b.w.published.Load() < 5 {
		t.Errorf("%d updates beside it all", b.w.published.Load())
	}
}

// peak is the most memory in use while f runs, beyond what was before, in bytes.
func peak(f func()) (most uint64) {
	runtime.GC()
	before := heapInUse()
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			most = max(most, heapInUse())
			select {
			case <-end:
				return
			default:
				pass(5*time.Millisecond, end)
			}
		}
	}()
	f()
	close(end)
	<-ended
	return most - min(most, before)
}

func TestSlowSendersAreLetGoAndTheOthersAreServed(t *testing.T) {
	const senders = 400
	v := newVictim(t)
	b := standBy(v.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var dripping sync.WaitGroup
	var slowest atomic.Int64
	for i := range senders {
		raw := bare("GET", "/livez", "X-A: "+times(1000, "a"))
		if i%2 == 0 {
			raw = postUpdate(good, "Content-Length: 100000")
		}
		dripping.Go(func() {
			dialer := net.Dialer{LocalAddr: from(i, 200)}
			conn, err := dialer.DialContext(ctx, "tcp", v.Addr().String())
			if err != nil {
				t.Errorf("sender %d: %v", i, err)
				return
			}
			defer conn.Close()
			began, at := time.Now(), 0
			if i%2 == 0 {
				at = strings.Index(raw, "\r\n\r\n") + 4
				io.WriteString(conn, raw[:at])
			}
			gone := make(chan struct{})
			go func() { defer close(gone); io.Copy(io.Discard, conn) }()
			for n := 0; ; n++ { // a byte every 50 ms
				select {
				case <-gone:
					for took := int64(time.Since(began)); ; {
						if had := slowest.Load(); had >= took || slowest.CompareAndSwap(had, took) {
							return
						}
					}
				case <-ctx.Done():
					t.Errorf("sender %d is still served after %s", i, time.Since(began))
					conn.Close()
					<-gone
					return
				default:
					io.WriteString(conn, raw[at+n%(len(raw)-at):][:1])
					pass(50*time.Millisecond, gone, ctx.Done())
				}
			}
		})
	}
	dripping.Wait()
	b.leave(t)
	t.Logf("the slowest of %d was let go after %s", senders, time.Duration(slowest.Load()).Round(time.Millisecond))
	if most := 5 * time.Second * slowdown; time.Duration(slowest.Load()) > most {
		t.Errorf("want %s at most; the deadlines are 1 s and 2 s", most)
	}
	v.settle(t)
}

// tight is s as the smallest of zstd.
func tight(s string) string {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	defer z.Close()
	return string(z.EncodeAll([]byte(s), nil))
}

func TestAGibibyteInAMebibyteIsRefusedInLittleMemory(t *testing.T) {
	const pieces = 1 << 10
	v := newVictim(t)
	b := standBy(v.Addr().String())
	zeros := times(1<<20, "\x00")
	bombs := map[string]string{"gzip": times(pieces, gzipped(zeros)), "zstd": times(pieces, tight(zeros))}
	empty := map[string]string{"gzip": times(pieces, gzipped(times(1<<20, "\n"))), "zstd": times(pieces, tight(times(1<<20, "\n")))}
	for encoding, bomb := range bombs {
		for _, c := range []struct{ name, raw, want string }{
			{"updates", postUpdate(bomb, "Content-Encoding: "+encoding), "413 body-too-large"},
			{"lines of updates", postUpdate(bomb, "Content-Encoding: "+encoding, linesType), "413 body-too-large"},
			{"states", sending("POST", st, bomb, "Content-Encoding: "+encoding), "413 body-too-large"},
			{"dependencies", sending("PATCH", deps, bomb, "Content-Encoding: "+encoding), "413 body-too-large"},
			{"a channel", sending("PUT", chans+"x", bomb, "Content-Encoding: "+encoding), "413 body-too-large"},
			{"lines of a channel", patchLines(bomb, "Content-Encoding: "+encoding), "400 over-limit"},
			{"empty lines of updates", postUpdate(empty[encoding], "Content-Encoding: "+encoding, linesType), "413 body-too-large"},
			{"empty lines of a channel", patchLines(empty[encoding], "Content-Encoding: "+encoding), "413 body-too-large"},
		} {
			t.Run(encoding+" of "+c.name, func(t *testing.T) {
				began := time.Now()
				var a *reply
				most := peak(func() { a = v.send(t, c.raw) })
				took := time.Since(began)
				t.Logf("%d kB sent, %d MiB more in use, %s", len(c.raw)>>10, most>>20, took.Round(time.Millisecond))
				if got := describe(a); got != c.want {
					t.Errorf("got %s, want %s", got, c.want)
				}
				if most > 2*hostileMemory {
					t.Errorf("%d MiB more in use, want %d", most>>20, 2*hostileMemory>>20)
				}
				if took > 3*time.Second*slowdown {
					t.Errorf("it took %s", took)
				}
			})
		}
	}
	b.leave(t)
	v.settle(t)
}

// flood sends head, and then piece again and again in chunks until the hub has
// answered or does not take it any more. It returns the answer and the bytes sent.
func flood(t *testing.T, hub, head, piece string) (got string, sent int64) {
	t.Helper()
	conn, err := net.Dial("tcp", hub)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	var n atomic.Int64
	flooding := make(chan struct{})
	go func() {
		defer close(flooding)
		io.WriteString(conn, head)
		for chunk := []byte(fmt.Sprintf("%x\r\n%s\r\n", len(piece), piece)); ; n.Add(int64(len(piece))) {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	}()
	defer func() { conn.Close(); <-flooding }()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if errors.Is(err, syscall.ECONNRESET) {
		return "closed", n.Load()
	}
	if err != nil {
		t.Fatalf("a flood is not answered: %v", err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return describe(&reply{resp.StatusCode, resp.Header, body}), n.Load()
}

func TestWhatNeverEndsIsRefused(t *testing.T) {
	v := newVictim(t)
	b := standBy(v.Addr().String())
	chunked := func(method, target, media string) string {
		return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", method, target, media)
	}
	a64k := times(64<<10, "a")
	for _, c := range []struct {
		name, head, piece string
		want              []string // an answer to what goes on coming may be lost
		limit             int64
	}{
		{"a line of updates", chunked("POST", up, typeNDJSON), a64k, []string{"413 body-too-large", "closed"}, maxBody},
		{"empty lines of updates", chunked("POST", up, typeNDJSON), times(64<<10, "\n"), []string{"413 body-too-large", "closed"}, maxBody},
		{"a line of a channel", chunked("PATCH", chans+"listed", typeNDJSON), a64k, []string{"400 over-limit", "closed"}, maxListLine},
		{"states", chunked("POST", st, typeJSON), a64k, []string{"413 body-too-large", "closed"}, maxBody},
		{"a filter", chunked("POST", "/v1/stream", typeJSON), a64k, []string{"413 body-too-large", "closed"}, 1 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got string
			var sent int64
			most := peak(func() { got, sent = flood(t, v.Addr().String(), c.head, c.piece) })
			t.Logf("%d kB sent, %d MiB more in use", sent>>10, most>>20)
			if !slices.Contains(c.want, got) {
				t.Errorf("got %s, want %v", got, c.want)
			}
			// The system and net/http take some after the answer.
			if sent > c.limit+16<<20 {
				t.Errorf("%d bytes were taken, the limit is %d", sent, c.limit)
			}
			if most > 2*hostileMemory {
				t.Errorf("%d MiB more in use", most>>20)
			}
		})
	}
	b.leave(t)
}
