package hub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts a file system of some bytes until the test ends.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount a file system")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillDisk writes a file as long as there is room for it, and at most size bytes.
func fillDisk(t *testing.T, name string, size int) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for part := make([]byte, 64<<10); size > 0; size -= len(part) {
		if _, err := f.Write(part); err != nil {
			return
		}
	}
}

// post sends one update, as large as its padding makes it, and returns the status;
// 0 if nobody answers.
func (p *hubProcess) post(n, padding int) int {
	body := fmt.Sprintf(`{"uri":"https://e.example/%d","version":"%d","deps":[`, n%10, n)
	for i := range padding {
		body += fmt.Sprintf(`"https://e.example/%d/%s",`, i+n, strings.Repeat("x", 200))
	}
	resp, err := p.client.Post(p.url()+"/v1/updates", typeJSON, bytes.NewBufferString(strings.TrimSuffix(body, ",")+"]}"))
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// versionOf is the version of one of the resources that post updates.
func (p *hubProcess) versionOf(n int) (version int) {
	p.t.Helper()
	text, err := p.get(p.url() + "/v1/resource?uri=" + url.QueryEscape(fmt.Sprintf("https://e.example/%d", n%10)))
	if err != nil {
		p.t.Fatal(err)
	}
	var r struct{ Version string }
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		p.t.Fatal(err)
	}
	fmt.Sscan(r.Version, &version)
	return version
}

// statusComes posts updates until one has the status.
func (p *hubProcess) statusComes(from, want int) (last int) {
	p.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := from; n < from+1000; n++ {
		if p.post(n, 0) == want {
			return n
		}
		<-tick.C
	}
	p.t.Fatalf("no update is answered %d", want)
	return 0
}

func TestOnARealDiskThatFillsUpTheHubStopsWritingInTime(t *testing.T) {
	dir := smallDisk(t, 256<<20)
	p := startProcess(t, 0, "DATA="+filepath.Join(dir, "data"), "MIN_FREE=128MiB")
	p.statusComes(1, http.StatusOK)
	ballast := filepath.Join(dir, "ballast")
	fillDisk(t, ballast, 150<<20)
	n := p.statusComes(2, http.StatusInsufficientStorage)
	if text, err := p.get(p.url() + "/healthz"); err != nil || !strings.Contains(text, "read-only") {
		t.Errorf("/healthz says %q, %v", text, err)
	}
	if got := p.versionOf(n); got == n {
		t.Errorf("update %d was refused and is there", n)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	n = p.statusComes(n+1, http.StatusOK)
	if got := p.versionOf(n); got != n {
		t.Errorf("with room again update %d was taken, and the version is %d", n, got)
	}
}

func TestAHubWhoseRealDiskIsFullStopsAndHasAllItAcknowledged(t *testing.T) {
	dir := smallDisk(t, 96<<20)
	p := startProcess(t, 0, "DATA="+filepath.Join(dir, "data"), "MIN_FREE=0")
	p.statusComes(1, http.StatusOK)
	ballast := filepath.Join(dir, "ballast")
	fillDisk(t, ballast, 96<<20)
	acknowledged := 1
	for n := 2; ; n++ {
		if n == 20_000 {
			t.Fatal("20,000 updates are taken on a disk without room")
		}
		if p.post(n, 200) != http.StatusOK {
			break
		}
		acknowledged = n
	}
	err := p.cmd.Wait()
	p.stdin.Close()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		t.Fatalf("the hub ends with %v, want a failure", err)
	}
	if text := p.said.String(); !strings.Contains(text, "no space left on device") {
		t.Errorf("the hub does not say that the disk is full:\n%s", text)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	p.start()
	for n := max(1, acknowledged-9); n <= acknowledged; n++ {
		if got := p.versionOf(n); got < n || got > acknowledged+1 {
			t.Errorf("of %d acknowledged updates %d is gone: the version is %d", acknowledged, n, got)
		}
	}
	if p.post(acknowledged+20, 0) != http.StatusOK {
		t.Error("with room again and a restart an update is refused")
	}
	t.Logf("%d updates were acknowledged before the disk was full", acknowledged)
}
