package federation

import (
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
