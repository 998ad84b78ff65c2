package federation

import (
	"fmt"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// BenchmarkCatchUp measures how fast a hub that was away hears what has changed: files of
// another hub, each of which one page here depends on.
func BenchmarkCatchUp(b *testing.B) {
	const files = 50_000
	commons := newHouse(b, "https://commons.example", Options{})
	wiki := newHouse(b, "https://wiki.example", Options{})
	edit := func(version string) {
		var us []graph.Update
		for i := range files {
			if us = append(us, page(fmt.Sprintf("https://commons.example/wiki/File:Number_%d.jpg", i), version)); len(us) == 1000 || i == files-1 {
				commons.put(us...)
				us = us[:0]
			}
		}
	}
	edit("1")
	commons.knows(wiki)
	wiki.knows(commons)
	var us []graph.Update
	for i := range files {
		us = append(us, graph.Update{URI: fmt.Sprintf("https://wiki.example/wiki/%d", i), Version: "1", Hash: "x", At: time.Now(),
			Deps: []graph.Dep{{URI: fmt.Sprintf("https://commons.example/wiki/File:Number_%d.jpg", i), Seen: "1"}}})
		if len(us) == 1000 || i == files-1 {
			wiki.put(us...)
			us = us[:0]
		}
	}
	heard := func() int {
		s, err := wiki.peers.Status(commons.url())
		if err != nil {
			b.Fatal(err)
		}
		return s.Heard.Changed
	}
	until(b, "all is heard", func() bool { return heard() == files })
	var took time.Duration
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		if err := wiki.peers.Pause(b.Context(), commons.url(), true); err != nil {
			b.Fatal(err)
		}
		edit(fmt.Sprint(n + 2))
		want := heard() + files
		b.StartTimer()
		begun := time.Now()
		if err := wiki.peers.Pause(b.Context(), commons.url(), false); err != nil {
			b.Fatal(err)
		}
		until(b, "all is heard", func() bool { return heard() >= want })
		took += time.Since(begun)
	}
	b.ReportMetric(float64(files*b.N)/took.Seconds(), "states/s")
}

// BenchmarkCrossing measures how long it takes from an edit at one hub until the page that
// depends on it is to be made again at the other.
func BenchmarkCrossing(b *testing.B) {
	commons := newHouse(b, "https://commons.example", Options{})
	wiki := newHouse(b, "https://wiki.example", Options{})
	const file, article = "https://commons.example/Cat.jpg", "https://wiki.example/Cat"
	commons.put(page(file, "0"))
	commons.knows(wiki)
	wiki.knows(commons)
	n := 0
	render := func() {
		wiki.put(graph.Update{URI: article, Version: "7", Hash: fmt.Sprint(n), At: time.Now(), Deps: []graph.Dep{{URI: file, Seen: fmt.Sprint(n)}}})
	}
	render()
	until(b, "it is heard", func() bool { return wiki.version(file) == "0" })
	for b.Loop() {
		n++
		commons.put(page(file, fmt.Sprint(n)))
		until(b, "it is heard", func() bool { return wiki.state(article) == graph.Ready })
		b.StopTimer()
		render()
		b.StartTimer()
	}
}

// BenchmarkStates measures what the levels of one event cost who reads them.
func BenchmarkStates(b *testing.B) {
	var levels []graph.Level
	for i := range maxStates {
		levels = append(levels, graph.Level{URI: fmt.Sprintf("https://commons.example/wiki/File:Number_%d.jpg", i), Sver: uint64(i + 1), Cver: 7,
			Type: "file", Heard: true, Known: true, Version: "28", Hash: "0123456789abcdef0123456789abcdef01234567", ChangedAt: time.Now(), Now: time.Now()})
	}
	data, n := encodeStates(levels)
	for b.Loop() {
		if got, err := decodeStates(data); len(got) != n || err != nil {
			b.Fatal(len(got), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/state")
}
