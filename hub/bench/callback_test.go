package bench

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// A document of what was published: version 1 of page 0 at 11, 2 of 1 at 12, 3 of 0 at 13.
func callbackDoc(prev, first, last int, notices string) string {
	return fmt.Sprintf(`{"self":"t","lane":"prompt","first":%d,"last":%d,"prev":%d,"notices":[%s]}`, first, last, prev, notices)
}

func callbackNotice(seq, page, version int) string {
	return fmt.Sprintf(`{"seq":%d,"uri":"http://h/%d","version":"%d"}`, seq, page, version)
}

func TestWhatACallbackGotIsHeldAgainstWhatWasPublished(t *testing.T) {
	one, two := callbackDoc(10, 11, 12, callbackNotice(11, 0, 1)+","+callbackNotice(12, 1, 2)), callbackDoc(12, 13, 13, callbackNotice(13, 0, 3))
	merged := callbackDoc(10, 11, 13, callbackNotice(12, 1, 2)+","+callbackNotice(13, 0, 3))
	for _, c := range []struct {
		name string
		got  []string
		want CallbackReport // of whom it was heard that it took what came
	}{
		{"one after the other", []string{one, two}, CallbackReport{}},
		{"merged", []string{merged}, CallbackReport{}},
		{"one again", []string{one, one, two}, CallbackReport{Repeated: 1}},
		{"one again, with what came since", []string{one, merged}, CallbackReport{Repeated: 1}},
		{"a gap", []string{callbackDoc(10, 11, 11, callbackNotice(11, 0, 1)), two}, CallbackReport{Gaps: 1}},
		{"one notice left out", []string{callbackDoc(10, 11, 13, callbackNotice(13, 0, 3))}, CallbackReport{Wrong: 1}},
		{"an older version", []string{callbackDoc(10, 11, 13, callbackNotice(12, 1, 2)+","+callbackNotice(13, 0, 1))}, CallbackReport{Wrong: 1}},
		{"what was merged as well", []string{callbackDoc(10, 11, 13, callbackNotice(11, 0, 1)+","+callbackNotice(12, 1, 2)+","+callbackNotice(13, 0, 3))}, CallbackReport{Wrong: 1}},
		{"a range that is not its own", []string{callbackDoc(10, 12, 13, callbackNotice(12, 1, 2)+","+callbackNotice(13, 0, 3)), callbackDoc(10, 11, 14, callbackNotice(12, 1, 2)+","+callbackNotice(13, 0, 3))}, CallbackReport{Wrong: 1}},
		{"a page of nobody", []string{callbackDoc(10, 11, 11, `{"seq":11,"uri":"http://x/0","version":"1"}`)}, CallbackReport{Wrong: 1}},
		{"a document of another topic", []string{`{"self":"u","lane":"prompt","first":11,"last":11,"prev":10,"notices":[` + callbackNotice(11, 0, 1) + "]}"}, CallbackReport{Wrong: 1}},
		{"no document", []string{"[]"}, CallbackReport{Wrong: 1}},
		{"nothing in it", []string{callbackDoc(13, 0, 13, "")}, CallbackReport{Wrong: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &callbackRun{host: "h"}
			r.truth.add(11, 0, 1)
			r.truth.add(12, 1, 2)
			r.truth.add(13, 0, 3)
			sub := &callback{secret: "s", page: allPages, topic: "t"}
			for _, body := range c.got {
				mac := hmac.New(sha256.New, []byte("s"))
				mac.Write([]byte(body))
				sub.got = append(sub.got, delivered{what: &sent{body: []byte(body)}, signature: "sha256=" + hex.EncodeToString(mac.Sum(nil))})
			}
			r.callbacks = &callbacks{all: []*callback{sub}}
			r.judge()
			got := r.report
			if got.Repeated != c.want.Repeated || got.Retried != 0 || got.Gaps != c.want.Gaps || got.Wrong != c.want.Wrong || got.BadSignatures != 0 || got.Deliveries != uint64(len(c.got)) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if sound := c.want.Gaps+c.want.Wrong+c.want.Repeated == 0; sound != (got.Err() == nil) || !sound && !errors.Is(got.Err(), ErrInexact) {
				t.Errorf("it says %v", got.Err())
			}
			sub.got[0].unheard = true
			r.report = CallbackReport{}
			r.judge()
			if r.report.Retried != c.want.Repeated || r.report.Repeated != 0 {
				t.Errorf("of what nobody heard was taken it says %+v", r.report)
			}
			sub.got[0].signature = "sha256=00"
			r.report = CallbackReport{}
			r.judge()
			if r.report.BadSignatures != 1 || r.report.Err() == nil {
				t.Errorf("of a bad signature it says %+v", r.report)
			}
		})
	}
}

func TestTheCeilingCallsEachOneAfterTheOtherAndCountsWhatIsAnswered(t *testing.T) {
	var inside, most, failed atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := inside.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer inside.Add(-1)
		if r.URL.Path == "/failing" {
			failed.Add(1)
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer s.Close()
	r, err := Ceiling(t.Context(), CeilingPlan{Duration: 100 * time.Millisecond, Bodies: []CeilingBody{{[]byte("a")}, {[]byte("b")}},
		Targets: []CeilingTarget{{s.URL + "/well", "s"}, {s.URL + "/failing", "s"}}})
	if err != nil || r.Calls == 0 || r.Failed == 0 || r.Failed > uint64(failed.Load()) || r.Seconds < 0.1 || most.Load() > 2 {
		t.Errorf("%+v, %v, %d at once, %d failed", r, err, most.Load(), failed.Load())
	}
	if _, err := Ceiling(t.Context(), CeilingPlan{}); err == nil {
		t.Error("a plan of nothing is made")
	}
}

func TestOfEachPageIsKnownWhatASubscriberLacks(t *testing.T) {
	var published truth
	for i, page := range []int{0, 1, 0, 2, 0} {
		if n := published.next(1); n != i+1 {
			t.Fatalf("update %d is number %d", i+1, n)
		}
		published.add(uint64(10+i), page, i+1)
	}
	for _, c := range []struct {
		page   int
		number int64
		want   int
	}{{allPages, 0, 5}, {allPages, 3, 2}, {allPages, 5, 0}, {0, 0, 3}, {0, 1, 2}, {0, 4, 1}, {0, 5, 0}, {1, 0, 1}, {1, 2, 0}, {3, 0, 0}, {9, 0, 0}} {
		if got := published.lacks(c.page, c.number); got != c.want {
			t.Errorf("who has update %d lacks %d of page %d, want %d", c.number, got, c.page, c.want)
		}
	}
	if got := published.in(0, 10, 14); len(got) != 1 || got[0].number != 5 {
		t.Errorf("of page 0 there is %v", got)
	}
}
