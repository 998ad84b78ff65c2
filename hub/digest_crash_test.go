package hub

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/client"
)

// digestKills is how often a hub is killed.
const digestKills = 6

// What a hub has published stays what it is, and goes on without a gap, whenever the hub
// is killed.
func TestAHubThatIsKilledKeepsItsDigestsWhole(t *testing.T) {
	data, clock := t.TempDir(), time.Date(2026, 11, 22, 20, 30, 0, 0, time.UTC)
	p := startProcess(t, 0, "DATA="+data, "CLOCK_RATE=3600", "CLOCK_START="+clock.Format(time.RFC3339))
	folder := filepath.Join(data, "digest", "all")
	seen := map[string][32]byte{}
	last := uint64(0)
	for kill := range digestKills {
		stop := time.After(time.Duration(800+rand.IntN(1200)) * time.Millisecond)
		for version := 1; ; version++ {
			body := ""
			for page := range 50 {
				body += fmt.Sprintf(`{"uri":"https://en.example.org/wiki/Page_%d","version":"%d"}`+"\n", page, kill*1000+version)
			}
			resp, err := p.client.Post(p.url()+"/v1/updates", typeNDJSON, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			select {
			case <-stop:
			case <-time.After(20 * time.Millisecond):
				continue
			}
			break
		}
		p.kill()
		files, err := hashes(folder)
		if err != nil {
			t.Fatal(err)
		}
		for name, sum := range seen {
			if files[name] != sum {
				t.Fatalf("after kill %d %s is another one", kill+1, name)
			}
		}
		maps.Copy(seen, files)
		clock = clock.Add(time.Duration(2+rand.IntN(3)) * time.Hour)
		p.env = append(p.env, envPrefix+"CLOCK_START="+clock.Format(time.RFC3339))
		p.start()
		r, err := client.DigestFolder(folder, client.DigestOptions{Temp: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		a, err := r.Verify(context.Background(), 0, func(string, int) {})
		if err != nil || len(a.Faults) > 0 || a.Absent > 0 {
			t.Fatalf("after kill %d: %+v %v", kill+1, a, err)
		}
		s, _, _, err := r.State(context.Background(), "")
		if err != nil || s.Seq < last || s.FirstSeq != 1 {
			t.Fatalf("after kill %d hours %d to %d are there, before it was %d: %v", kill+1, s.FirstSeq, s.Seq, last, err)
		}
		last = s.Seq
	}
	if last < digestKills/2 {
		t.Errorf("only %d hours have closed", last)
	}
}

// hashes are those of the files of closed digests.
func hashes(folder string) (map[string][32]byte, error) {
	sums := map[string][32]byte{}
	for _, below := range []string{"h", "d", "w"} {
		err := filepath.WalkDir(filepath.Join(folder, below), func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				if os.IsNotExist(err) {
					return nil
				}
				return err
			}
			b, err := os.ReadFile(name)
			sums[name] = sha256.Sum256(b)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return sums, nil
}
