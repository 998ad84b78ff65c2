package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/mediawiki"
)

func TestTheDemoOfTwoHubsKeepsRunningUntilItIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &interrupter{text: "until you press Ctrl-C", interrupt: cancel}
	var stderr bytes.Buffer
	if code := run(ctx, []string{"demo", "federation"}, strings.NewReader(""), out, &stderr); code != exitOK || stderr.Len() > 0 {
		t.Errorf("got exit code %d and %q, want %d and nothing", code, stderr.String(), exitOK)
	}
	if !strings.Contains(out.String(), "freshwire peer ls --hub http://127.0.0.1:") {
		t.Errorf("no command to try in\n%s", out.String())
	}
}

func TestTheArticlesThatShowFilesOfCommonsAreThoseOfTheRecording(t *testing.T) {
	d := &twoHubs{demo: demo{clock: newClock(time.Now())}}
	if err := d.gather(); err != nil {
		t.Fatal(err)
	}
	file := func(title string) string {
		return mediawiki.Aspect(mediawiki.PageURI(commonsPath, title), mediawiki.File)
	}
	for what, n := range map[string][2]int{
		"pages":                                       {len(d.wiki.renderings), 82},
		"resources of Commons":                        {len(d.wiki.primaries), 1123},
		"pages that show " + anatomy:                  {len(d.wiki.madeFrom(file(anatomy))), 3},
		"pages that show " + peoples:                  {len(d.wiki.madeFrom(file(peoples))), 2},
		"pages that show the wiki's own File:Red.png": {len(d.wiki.madeFrom(file("File:Red.png"))), 0},
	} {
		if n[0] != n[1] {
			t.Errorf("%s: got %d, want %d", what, n[0], n[1])
		}
	}
}

func TestAnAddressThatWasTakenMeanwhileIsReplaced(t *testing.T) {
	taken := errors.New("taken")
	var tried []string
	if err := onFreeAddress(t.Context(), func(address string) error {
		if tried = append(tried, address); len(tried) == 1 {
			return taken
		}
		return nil
	}); err != nil || len(tried) != 2 {
		t.Errorf("got %v after %v, want the second address", err, tried)
	}
	tried = nil
	if err := onFreeAddress(t.Context(), func(address string) error {
		tried = append(tried, address)
		return taken
	}); err != taken || len(tried) != addressTries {
		t.Errorf("got %v after %v, want the last fault after %d tries", err, tried, addressTries)
	}
}
