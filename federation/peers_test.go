package federation

import (
	"fmt"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/graph"
)

func TestAHubHearsWhatAnotherSpeaksFor(t *testing.T) {
	commons := newHouse(t, "https://commons.example", Options{})
	wiki := newHouse(t, "https://wiki.example", Options{})
	commons.put(page("https://commons.example/Cat.jpg", "1"))
	commons.knows(wiki)
	wiki.knows(commons)
	const article = "https://wiki.example/Cat"
	wiki.put(graph.Update{URI: article, Version: "7", Hash: "x", At: commons.now(), Token: wiki.store.Token(),
		Deps: []graph.Dep{{URI: "https://commons.example/Cat.jpg", Seen: "1"}}})
	until(t, "the file is heard of", func() bool { return wiki.version("https://commons.example/Cat.jpg") == "1" })
	if wiki.state(article) != graph.Clean {
		t.Errorf("the article that saw what there is is %v", wiki.state(article))
	}
	commons.put(page("https://commons.example/Cat.jpg", "2"))
	until(t, "the article is to be made again", func() bool { return wiki.state(article) == graph.Ready })
	until(t, "what was heard is acknowledged", func() bool {
		s, err := commons.peers.Status(wiki.url())
		return err == nil && s.Client.Interests == 1 && s.Client.Acked > 0 && s.Client.Waiting == 0
	})
}

func TestWhatWasLostBetweenHubsIsFoundByAComparison(t *testing.T) {
	commons := newHouse(t, "https://commons.example", Options{})
	wiki := newHouse(t, "https://wiki.example", Options{})
	commons.knows(wiki)
	wiki.knows(commons)
	var deps []graph.Dep
	for i := range 300 {
		file := fmt.Sprintf("https://commons.example/%d.jpg", i)
		commons.put(page(file, "1"))
		deps = append(deps, graph.Dep{URI: file, Seen: "1"})
	}
	wiki.put(graph.Update{URI: "https://wiki.example/Gallery", Version: "7", Hash: "x", At: wiki.now(), Deps: deps})
	status := func() Status {
		s, err := wiki.peers.Status(commons.url())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	until(t, "all is heard", func() bool { return status().Heard.Changed == 300 })
	until(t, "the first comparison finds nothing", func() bool { s := status(); return !s.Compared.IsZero() && s.Mended == 0 })
	// Commons forgets that it is asked for one, and is told that of another that nobody wants.
	s := status()
	forget := graph.Registration{Epoch: s.Session.Epoch, Generation: s.Session.Generation, Base: 300, Ops: []graph.InterestOp{
		{N: 301, URI: "https://commons.example/7.jpg"}, {N: 302, Add: true, URI: "https://commons.example/nobody.jpg"}}}
	if _, err := commons.store.Register(t.Context(), wiki.url(), forget, 1000); err != nil {
		t.Fatal(err)
	}
	commons.put(page("https://commons.example/7.jpg", "2"))
	until(t, "it is found, and the page is to be made again", func() bool {
		if err := wiki.peers.Compare(commons.url()); err != nil {
			t.Fatal(err)
		}
		return wiki.state("https://wiki.example/Gallery") == graph.Ready
	})
	until(t, "both want the same again", func() bool {
		c, err := commons.store.Client(wiki.url())
		return err == nil && c.Interests == 300
	})
	// The peer takes what it never was asked for as asked, so that the first attempt at
	// mending passes it by.
	until(t, "what changed is counted, and what was mended", func() bool { s := status(); return s.Mended >= 2 && s.Heard.Changed == 301 })
}

func TestAPeerThatWasPausedIsHeardAgainAtOnce(t *testing.T) {
	commons := newHouse(t, "https://commons.example", Options{})
	wiki := newHouse(t, "https://wiki.example", Options{})
	commons.knows(wiki)
	wiki.knows(commons)
	following := func(h *house, peer *house) func() bool {
		return func() bool {
			s, err := h.peers.Status(peer.url())
			return err == nil && s.Phase == Following
		}
	}
	until(t, "both follow", func() bool { return following(wiki, commons)() && following(commons, wiki)() })
	if err := wiki.peers.Pause(t.Context(), commons.url(), true); err != nil {
		t.Fatal(err)
	}
	until(t, "the other waits, for as long as it was asked to", func() bool {
		s, err := commons.peers.Status(wiki.url())
		return err == nil && s.Phase == Waiting && strings.Contains(s.Fault, "503")
	})
	if err := wiki.peers.Pause(t.Context(), commons.url(), false); err != nil {
		t.Fatal(err)
	}
	until(t, "both follow again", func() bool { return following(wiki, commons)() && following(commons, wiki)() })
}
