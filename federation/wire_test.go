package federation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// wireLevels are one of each kind.
func wireLevels() []graph.Level {
	at, now := time.Date(2026, 11, 22, 2, 12, 49, 123456000, time.UTC), time.Date(2026, 11, 22, 2, 13, 0, 0, time.UTC)
	levels := []graph.Level{
		{URI: "https://commons.example/Cat.jpg", Type: "content", Sver: 7, Cver: 3, Heard: true, Known: true, Version: "42", Hash: "h42", Aliases: []string{"40", "41"}, ChangedAt: at},
		{URI: "https://commons.example/?a=1&b=<\u00e4>", Type: "html", Sver: 1 << 62, Cver: 1 << 62, Heard: true, Known: true, Hash: "x", Ambiguous: true, Unsettled: true, ChangedAt: at},
		{URI: "https://commons.example/Deleted", Sver: 9, Cver: 4, Heard: true, Version: "0", ChangedAt: at},
		{URI: "urn:isbn:0140328726", Sver: 10},
	}
	for i := range levels {
		levels[i].Now = now
	}
	return levels
}

func wireRegistration() *graph.Registration {
	return &graph.Registration{Epoch: 0x5f3a, Generation: 2, Base: 1<<62 - 3, Ops: []graph.InterestOp{{N: 1<<62 - 2, Add: true, URI: "https://commons.example/?a=1&b"},
		{N: 1<<62 - 1, URI: "https://commons.example/Cat.jpg"}, {N: 1 << 62, Add: true}}}
}

// message is what a hub sends, by what it is.
type message struct {
	name string
	text []byte
}

// messages are all that a hub sends, beside its document and its token.
func messages(t testing.TB) []message {
	states, n := encodeStates(wireLevels())
	if n != len(wireLevels()) {
		t.Fatalf("%d levels are encoded", n)
	}
	registration, n := encodeRegistration(wireRegistration(), MaxBody)
	if n != 3 {
		t.Fatalf("%d ops are encoded", n)
	}
	answered := func(v any) []byte {
		w := httptest.NewRecorder()
		if err := answer(w, v); err != nil {
			t.Fatal(err)
		}
		return w.Body.Bytes()
	}
	at := graph.Cursor{Epoch: 0x5f3a, Seq: 1 << 62}
	s := &teller{}
	s.event(eventStates, states, at.String())
	s.event(eventHeartbeat, []byte("{}"), "")
	s.event(eventReset, encodeReset(at.Epoch), "")
	return []message{
		{"stream", s.frame.Bytes()},
		{"registration", registration},
		{"applied", answered(appliedShape{Applied: 3})},
		{"applied, but for some", answered(appliedShape{3, 2, `this hub does not speak for "https://nobody.example/"`})},
		{"acknowledgement", encodeAck(at)},
		{"acknowledged", answered(struct{}{})},
	}
}

func TestMessagesAreWrittenAsOthersReadThem(t *testing.T) {
	var got bytes.Buffer
	for _, m := range messages(t) {
		fmt.Fprintf(&got, "# %s\n%s\n", m.name, m.text)
	}
	name := filepath.Join("testdata", "messages.golden")
	if *update {
		if err := os.WriteFile(name, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("got\n%s\nwant\n%s", got.Bytes(), want)
	}
}

func TestMessagesReadBack(t *testing.T) {
	states, _ := encodeStates(wireLevels())
	if got, err := decodeStates(states); err != nil || !reflect.DeepEqual(got, wireLevels()) {
		t.Errorf("states: got %+v, %v; want %+v", got, err, wireLevels())
	}
	text, _ := encodeRegistration(wireRegistration(), MaxBody)
	if got, err := decodeRegistration(text); err != nil || !reflect.DeepEqual(&got, wireRegistration()) {
		t.Errorf("registration: got %+v, %v; want %+v", got, err, wireRegistration())
	}
	for _, at := range []graph.Cursor{{}, {Epoch: 1, Seq: 2}, {Epoch: math.MaxUint32, Seq: math.MaxUint64}} {
		if got, err := decodeAck(encodeAck(at)); err != nil || got != at {
			t.Errorf("acknowledgement: got %v, %v; want %v", got, err, at)
		}
	}
}

func TestWhatIsTooLongForOneMessageIsCutBetweenItsParts(t *testing.T) {
	long := wireRegistration()
	for i := range long.Ops {
		long.Ops[i].URI = "https://commons.example/" + strings.Repeat("\u2028", 1000) // six bytes each, as JSON has it
	}
	for _, c := range []struct{ most, want int }{{MaxBody, 3}, {18_200, 2}, {minBody, 1}, {0, 1}} {
		text, n := encodeRegistration(long, c.most)
		got, err := decodeRegistration(text)
		if err != nil || n != c.want || !reflect.DeepEqual(got.Ops, long.Ops[:n]) || n > 1 && len(text) > c.most {
			t.Errorf("into %d bytes go %d ops in %d bytes, %v; want %d", c.most, n, len(text), err, c.want)
		}
	}
	var levels []graph.Level
	for range 3 * maxStates {
		levels = append(levels, wireLevels()[0])
	}
	if text, n := encodeStates(levels); n != maxStates || len(text) > maxStateBytes {
		t.Errorf("%d levels go into an event, in %d bytes", n, len(text))
	}
	for i := range levels {
		levels[i].URI = "https://commons.example/" + strings.Repeat("x", 2000)
		levels[i].Version, levels[i].Hash, levels[i].Type = strings.Repeat("\x01", 255), strings.Repeat("\x01", 255), strings.Repeat("\x01", 255)
		levels[i].Aliases = slices.Repeat([]string{strings.Repeat("\x01", 255)}, 4)
	}
	text, n := encodeStates(levels)
	if n < 2 || len(text) > maxStateBytes+16<<10 {
		t.Errorf("%d of the longest levels go into an event, in %d bytes", n, len(text))
	}
	if got, err := decodeStates(text); err != nil || !reflect.DeepEqual(got, levels[:n]) {
		t.Errorf("the longest levels do not read back: %v", err)
	}
}

// badMessages are texts that no decoder of another kind of message takes either.
func badMessages() []string {
	return []string{"", "{", "null", "[]", "7", "{}{}", `{"a":1,"a":2}`, "{\"a\":\"\xff\"}", strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100),
		`{"applied":1.5}`, `{"applied":-1}`, `{"applied":18446744073709551616}`, `{"applied":"1"}`, `{"Applied":1}`, `{"applied":1,"rejected":null}`, `{"applied":1,"rejected":1,"first":7}`,
		`{"epoch":"5F3A","generation":1,"base":0,"ops":[]}`, `{"epoch":"00005f3a","generation":1,"base":0}`, `{"epoch":"00005f3a","generation":1,"base":0,"ops":{}}`,
		`{"epoch":"00005f3a","generation":1,"base":0,"ops":[7]}`, `{"epoch":"00005f3a","generation":1,"base":0,"ops":[{"n":1,"op":"Add","uri":"x"}]}`,
		`{"epoch":"00005f3a","generation":1,"base":0,"ops":[{"n":1,"op":"add"}]}`, `{"epoch":"00005f3a","generation":1}`,
		`{"position":"1"}`, `{"position":null}`, `{"hub":"x"}`, `{"hub":7,"authority":[]}`, `{"hub":"x","authority":[7]}`, `{"hub":"x","authority":"x"}`,
		`{"states":[]}`, `{"now":"yesterday","states":[]}`, `{"now":"2026-11-22T02:13:00Z","states":7}`, `{"now":"2026-11-22T02:13:00Z","states":null}`,
		`{"now":"2026-11-22T02:13:00Z","states":[{"uri":7}]}`, `{"now":"2026-11-22T02:13:00Z","states":[` + strings.Repeat("{},", maxStatesTaken) + `{}]}`}
}

func TestWhatIsNoMessageIsRefused(t *testing.T) {
	for _, text := range badMessages() {
		b := []byte(text)
		_, states := decodeStates(b)
		_, registration := decodeRegistration(b)
		_, applied := decodeApplied(b)
		_, gap := decodeGap(b)
		_, ack := decodeAck(b)
		for _, err := range []error{states, registration, applied, gap, ack} {
			if !errors.Is(err, errMessage) || strings.ContainsAny(err.Error(), "\r\n") || len(err.Error()) > 500 {
				t.Errorf("%.80q: %v", text, err)
			}
		}
		if _, err := decodeVoucher(bytes.NewReader(b)); !errors.Is(err, ErrDocument) {
			t.Errorf("%.80q as a voucher: %v", text, err)
		}
	}
}

func TestAnEventWithManyStatesTakesLittleMemory(t *testing.T) {
	b := []byte(`{"now":"2026-11-22T02:13:00Z","states":[{}` + strings.Repeat(",{}", 340_000) + `]}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := decodeStates(b); err == nil {
		t.Error("340,000 states are taken")
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("an event of 1 MiB takes %d bytes", n)
	}
}

// seed adds what is sent and what is none to a fuzz target.
func seed(f *testing.F) {
	for _, m := range messages(f) {
		f.Add(m.text)
	}
	states, _ := encodeStates(wireLevels())
	f.Add(states)
	f.Add([]byte(`{"epoch":"00005f3a","generation":3,"applied":18446744073709551615,"type":"x"}`))
	f.Add([]byte(`{"hub":"https://a.example","authority":["https://en.example/wiki","urn:isbn"],"more":{}}`))
	for _, text := range badMessages() {
		f.Add([]byte(text))
	}
}

func FuzzStates(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		levels, err := decodeStates(b)
		if err != nil {
			if !errors.Is(err, errMessage) {
				t.Errorf("%v is no errMessage", err)
			}
			return
		}
		if len(levels) > maxStatesTaken {
			t.Fatalf("%d levels are taken", len(levels))
		}
		// What the store would refuse need not be written.
		levels = slices.DeleteFunc(levels, func(l graph.Level) bool {
			field, _ := l.Fault()
			return field != "" || l.Now.UTC().Year() > 9999
		})
		for rest := levels; len(rest) > 0; {
			text, n := encodeStates(rest)
			got, err := decodeStates(text)
			if err != nil || len(got) != n {
				t.Fatalf("%s encodes to %s, which decodes to %d levels, %v", b, text, len(got), err)
			}
			for i := range got {
				if !sameLevel(got[i], rest[i]) {
					t.Fatalf("%+v comes back as %+v", rest[i], got[i])
				}
			}
			rest = rest[n:]
		}
	})
}

// sameLevel compares levels whose times may be in different zones.
func sameLevel(a, b graph.Level) bool {
	same := a.Now.Equal(b.Now) && a.ChangedAt.Equal(b.ChangedAt) && slices.Equal(a.Aliases, b.Aliases)
	a.Now, a.ChangedAt, a.Aliases = b.Now, b.ChangedAt, b.Aliases
	return same && reflect.DeepEqual(a, b)
}

func FuzzRegistration(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		reg, err := decodeRegistration(b)
		if err != nil {
			if !errors.Is(err, errMessage) {
				t.Errorf("%v is no errMessage", err)
			}
			return
		}
		text, n := encodeRegistration(&reg, math.MaxInt)
		got, err := decodeRegistration(text)
		if err != nil || n != len(reg.Ops) || n > graph.MaxOps || !reflect.DeepEqual(got, reg) {
			t.Errorf("%s decodes to %+v, which encodes to %s, which decodes to %+v, %v", b, reg, text, got, err)
		}
	})
}

func FuzzApplied(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		res, err := decodeApplied(b)
		if err != nil || res.Rejected == 0 { // why nothing was rejected is not written
			return
		}
		text := mustJSON(appliedShape{res.Applied, res.Rejected, res.First})
		if got, err := decodeApplied([]byte(text)); err != nil || got != res {
			t.Errorf("%s decodes to %+v, which encodes to %s, which decodes to %+v, %v", b, res, text, got, err)
		}
	})
}

func FuzzGap(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		gap, err := decodeGap(b)
		if err != nil {
			return
		}
		text := mustJSON(map[string]any{"epoch": gap.Epoch.String(), "generation": gap.Generation, "applied": gap.Applied})
		if got, err := decodeGap([]byte(text)); err != nil || *got != *gap {
			t.Errorf("%s decodes to %+v, which encodes to %s, which decodes to %+v, %v", b, gap, text, got, err)
		}
	})
}

func FuzzAck(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		at, err := decodeAck(b)
		if err != nil {
			return
		}
		if got, err := decodeAck(encodeAck(at)); err != nil || got != at {
			t.Errorf("%s decodes to %v, which decodes to %v, %v", b, at, got, err)
		}
	})
}

func FuzzVoucher(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeVoucher(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrDocument) {
				t.Errorf("%v is no ErrDocument", err)
			}
			return
		}
		text, err := json.Marshal(map[string]any{"hub": v.hub, "authority": v.authority})
		if err != nil {
			t.Fatal(err)
		}
		if len(text) <= MaxDocument {
			if got, err := decodeVoucher(bytes.NewReader(text)); err != nil || !reflect.DeepEqual(got, v) {
				t.Errorf("%s decodes to %+v, which encodes to %s, which decodes to %+v, %v", b, v, text, got, err)
			}
		}
		for _, prefix := range v.authority {
			if !v.covers(v.hub, prefix) && graph.CheckPrefix(prefix) == nil || v.covers(v.hub+"x", prefix) {
				t.Errorf("%+v does not cover what it names, or does so for others: %q", v, prefix)
			}
		}
	})
}
