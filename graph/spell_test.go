package graph

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestTypeAndBucketsOfWhatIsReadFromTheStoreAreThoseOfNow(t *testing.T) {
	g := newRig(t, Options{TailBytes: 1})
	for i := range 5 {
		typ, buckets := fmt.Sprint("t", i), []string{fmt.Sprint("b", i), "all"}[i%2:]
		g.apply(Update{URI: named("A"), Type: typ, Buckets: buckets, Hash: fmt.Sprint(i)})
		g.edit("B", fmt.Sprint(100+i), fmt.Sprint(i))
		for _, n := range wholeJournal(t, g.s)[:2*i+1] {
			if n.URI == named("A") && (n.Type != typ || !slices.Equal(n.Buckets, buckets)) {
				t.Errorf("after update %d: %s is of type %s in %v, want %s in %v", i, n.Cursor, n.Type, n.Buckets, typ, buckets)
			}
		}
	}
}

func TestAnIDThatIsGivenAgainIsSpelledAnew(t *testing.T) {
	g := newRig(t, Options{KeepAge: 24 * time.Hour, TailBytes: 1})
	g.edit("X", "10", "a")
	g.remove("X")
	g.days(35)
	if _, ok, _ := g.s.lookup(named("X")); ok {
		t.Fatalf("X has its id still")
	}
	g.apply(Update{URI: named("Y"), Type: "html", Hash: "y"})
	all := wholeJournal(t, g.s)
	if n := all[len(all)-1]; n.URI != named("Y") || n.Type != "html" || n.Cause.URI != named("Y") {
		t.Errorf("got %+v, want a notice of Y", n)
	}
}

func TestWhatWasReadBeforeAChangeIsNotKeptAfterIt(t *testing.T) {
	var s spelling
	known := s.versions()
	s.put(7, label{uri: "u", typ: "old", labelled: true}, &known)
	if l, ok := s.get(7); !ok || l.typ != "old" {
		t.Errorf("got %+v, %t", l, ok)
	}
	known = s.versions()
	s.forget(7)
	s.put(7, label{uri: "u", typ: "old", labelled: true}, &known)
	if l, ok := s.get(7); ok {
		t.Errorf("%+v was kept, which had been read before it changed", l)
	}
	known = s.versions()
	s.put(7, label{uri: "u", typ: "new", labelled: true}, &known)
	s.put(7, label{uri: "u"}, &known)
	if l, _ := s.get(7); l.typ != "new" {
		t.Errorf("an URI alone replaced type and buckets: %+v", l)
	}
}

func TestTwoResourcesOfOnePlaceAreKeptAndTheThirdDrivesOutTheOlder(t *testing.T) {
	var s spelling
	known := s.versions()
	const stride = cachedLabels * spellingShards
	ids := []ID{5, 5 + stride, 5 + 2*stride}
	for _, id := range ids[:2] {
		s.put(id, label{uri: fmt.Sprint(id)}, &known)
	}
	s.get(ids[0])
	s.put(ids[2], label{uri: fmt.Sprint(ids[2])}, &known)
	for i, want := range []bool{true, false, true} {
		if l, ok := s.get(ids[i]); ok != want || ok && l.uri != fmt.Sprint(ids[i]) {
			t.Errorf("resource %d: got %+v, %t, want %t", ids[i], l, ok, want)
		}
	}
}
