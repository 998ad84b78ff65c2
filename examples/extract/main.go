// Command extract is a worker of a freshwire hub: it makes the extracts of pages, each
// a page's first paragraph, when and only when the page has changed. Run as many as
// there is work for; each extract is made by one of them.
//
//	extract http://127.0.0.1:8420 FOLDER
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) != 3 {
		log.Fatal("usage: extract HUB FOLDER")
	}
	hub, err := client.New(os.Args[1], client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	work(ctx, hub, os.Args[2])
}

// work asks for extracts to make until ctx ends.
func work(ctx context.Context, hub *client.Client, folder string) {
	for ctx.Err() == nil {
		claims, err := hub.Claim(ctx, client.ClaimRequest{Types: []string{"extract"}, Max: 10, Lease: time.Minute, Wait: 30 * time.Second})
		if err != nil && ctx.Err() == nil {
			log.Print(err)
			select { // the hub is away, or busy
			case <-time.After(5 * time.Second):
			case <-ctx.Done():
			}
		}
		for _, c := range claims {
			update, err := extract(ctx, c, folder)
			if err == nil {
				_, err = hub.Update(ctx, update) // which ends the claim
			}
			if err != nil {
				log.Printf("%s: %v", c.URI, errors.Join(err, hub.FailClaim(ctx, c.ID)))
			}
		}
	}
}

var (
	paragraph = regexp.MustCompile(`(?s)<p>(.*?)</p>`)
	tag       = regexp.MustCompile(`<[^>]*>`)
)

// extract makes what is claimed, PAGE#extract, and says what it is made from.
func extract(ctx context.Context, c client.Claim, folder string) (u client.Update, err error) {
	page, _, _ := strings.Cut(c.URI, "#")
	u = client.Update{ID: c.ID, URI: c.URI, Type: c.Type, At: time.Now(), Token: c.Token}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return u, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return u, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err = cmp.Or(err, ctx.Err()); err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	first := paragraph.FindSubmatch(body)
	if err != nil || first == nil {
		return u, cmp.Or(err, errors.New("the page has no paragraph"))
	}
	text := strings.TrimSpace(tag.ReplaceAllString(string(first[1]), ""))
	u.Hash = fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	u.Deps = []client.Dep{{URI: page, Seen: strings.Trim(resp.Header.Get("ETag"), `"`)}}
	name := fmt.Sprintf("%x", sha256.Sum256([]byte(c.URI)))
	return u, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644)
}
