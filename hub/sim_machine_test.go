package hub

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// A simDisk is a disk in memory that can be slow, fail and lose power. Only its
// logs do the first two: what they cannot flush must not be acknowledged.
type simDisk struct {
	mem    *vfs.MemFS
	delay  atomic.Int64 // of a flush, in ns
	broken atomic.Int32 // what fails from now on
}

const (
	nothingBroken = iota
	writesBroken
	flushesBroken
)

var errBroken = errors.New("the disk is broken")

// fs is the disk as a store sees it.
func (d *simDisk) fs() vfs.FS {
	return errorfs.Wrap(d.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !strings.HasSuffix(op.Path, ".log") {
			return nil
		}
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			time.Sleep(time.Duration(d.delay.Load()))
			if d.broken.Load() != nothingBroken {
				return errBroken
			}
		case errorfs.OpFileWrite:
			if d.broken.Load() == writesBroken {
				return errBroken
			}
		}
		return nil
	}))
}

// logs lists the logs of a disk by name.
func logs(fs vfs.FS) (paths []string) {
	names, _ := fs.List("data/store")
	for _, name := range names {
		if strings.HasSuffix(name, ".log") {
			paths = append(paths, "data/store/"+name)
		}
	}
	slices.Sort(paths)
	return paths
}

func readFile(fs vfs.FS, path string) []byte {
	f, err := fs.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, _ := io.ReadAll(f)
	return b
}

// room reports whether the log is far from being changed for a new one. The store
// does that under a lock, and who waits for a lock does not let the clock go on:
// while a log is slow it must not happen.
func (d *simDisk) room() bool {
	for _, path := range logs(d.mem) {
		if info, err := d.mem.Stat(path); err != nil || info.Size() > 100<<10 {
			return false
		}
	}
	return true
}

// powerCut returns what is on the disk when power comes back: all that was
// flushed, and of what was not nothing, or all but the end of each log, which is
// cut off anywhere or has a hole.
func (d *simDisk) powerCut(rng *rand.Rand) *vfs.MemFS {
	kept := d.mem.CrashClone(vfs.CrashCloneCfg{})
	if rng.IntN(3) == 0 {
		return kept
	}
	// All of it or nothing: what is drawn for each file would depend on their order.
	whole := d.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	for _, path := range logs(whole) {
		flushed, all := readFile(kept, path), readFile(whole, path)
		if !bytes.HasPrefix(all, flushed) || len(all) == len(flushed) {
			continue
		}
		all = all[:len(flushed)+rng.IntN(len(all)-len(flushed)+1)]
		if tail := all[len(flushed):]; len(tail) > 0 && rng.IntN(3) == 0 {
			from := rng.IntN(len(tail))
			clear(tail[from : from+rng.IntN(len(tail)-from)])
		}
		f, err := whole.Create(path, vfs.WriteCategoryUnspecified)
		if err == nil {
			_, err = f.Write(all)
			err = errors.Join(err, f.Sync(), f.Close())
		}
		if err != nil {
			panic(err)
		}
	}
	return whole
}

// A simNet is the network of one life of a hub.
type simNet struct {
	conns chan net.Conn
	gone  chan struct{}
	once  sync.Once

	mu   sync.Mutex
	open []net.Conn
}

func newSimNet() *simNet { return &simNet{conns: make(chan net.Conn), gone: make(chan struct{})} }

func (n *simNet) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.gone:
		return nil, net.ErrClosed
	}
}

func (n *simNet) Close() error {
	n.once.Do(func() { close(n.gone) })
	return nil
}

func (n *simNet) Addr() net.Addr { return simAddr{} }

type simAddr struct{}

func (simAddr) Network() string { return "sim" }
func (simAddr) String() string  { return "localhost:80" }

func (n *simNet) dial() (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case n.conns <- far:
	case <-n.gone:
		return nil, syscall.ECONNREFUSED
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open = append(n.open, near)
	return near, nil
}

// cut ends all connections at once.
func (n *simNet) cut() {
	n.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.open {
		c.Close()
	}
}

// A fate is what the network does to a request.
type fate uint8

const (
	arrives      fate = iota
	comesSlowly       // in two pieces, with a pause between them
	breaksOff         // ends in the middle, and so was never sent whole
	unanswered        // the connection ends before the answer
	halfAnswered      // or in the middle of it
	fates
)

func (f fate) String() string {
	return [...]string{"arrives", "comes slowly", "breaks off", "is not answered", "is half answered"}[f]
}

// A call is one request and what became of it.
type call struct {
	method, path string
	header       map[string]string
	body         []byte
	fate         fate
	at           int // of a break: bytes of the request, or of its answer
	pause        time.Duration

	status int // 0 unless there was a whole answer
	answer []byte
	leave  chan struct{} // closed when who is not to be answered goes
	done   chan struct{}
}

// start makes a request and does not wait for its answer.
func (n *simNet) start(c *call) *call {
	c.leave, c.done = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(c.done)
		n.do(c)
	}()
	return c
}

func (n *simNet) do(c *call) {
	conn, err := n.dial()
	if err != nil {
		return
	}
	defer conn.Close()
	req, err := http.NewRequest(c.method, "http://localhost"+c.path, bytes.NewReader(c.body))
	if err != nil {
		panic(err)
	}
	for name, value := range c.header {
		req.Header.Set(name, value)
	}
	var raw bytes.Buffer
	req.Write(&raw)
	b, half := raw.Bytes(), raw.Len()
	switch c.fate {
	case comesSlowly, breaksOff:
		half = min(c.at, raw.Len()-1)
	}
	go func() { // the answer may come before all is written
		if _, err := conn.Write(b[:half]); err != nil {
			return
		}
		switch c.fate {
		case breaksOff:
			conn.Close()
		case comesSlowly:
			time.Sleep(c.pause)
			conn.Write(b[half:])
		}
	}()
	var from io.Reader = conn
	switch c.fate {
	case unanswered:
		<-c.leave
		return
	case halfAnswered:
		from = &cutConn{conn, c.at}
	}
	resp, err := http.ReadResponse(bufio.NewReader(from), req)
	if err != nil {
		return
	}
	if answer, err := io.ReadAll(resp.Body); err == nil && c.fate != breaksOff {
		c.status, c.answer = resp.StatusCode, answer
	}
}

// over reports whether c has ended; it must be quiet.
func (c *call) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// leaveUnanswered ends what waits for nothing but to go.
func (c *call) leaveUnanswered() {
	if c.fate == unanswered && !c.over() {
		close(c.leave)
		synctest.Wait()
	}
}
