package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// fetchTries bounds how often a file is asked for that does not come.
	fetchTries = 6
	// fetchWait is the wait after the first failure, which then doubles up to
	// maxFetchWait.
	fetchWait    = time.Second
	maxFetchWait = 30 * time.Second
	// fetchSilence is how long a server may send nothing.
	fetchSilence = time.Minute
	// maxDocument bounds state.json, a manifest and a signature, in bytes: a week's state
	// for two years has 140 roll-ups of 300 bytes.
	maxDocument = 4 << 20
)

// errUnchanged reports a document that is still the one that the caller has.
var errUnchanged = errors.New("not changed")

// A fetcher gets files of a channel's archive by their paths below its folder.
type fetcher interface {
	// document returns a whole small file, and what tells this version of it; errUnchanged
	// if that is still tag.
	document(ctx context.Context, path, tag string) (b []byte, newTag string, err error)
	// download puts a file of a known size into a local one, which may have its beginning
	// already.
	download(ctx context.Context, path string, size int64, into *os.File) error
	// place is the archive, for people.
	place() string
}

// A folderArchive is a copy of an archive on this machine. Nothing outside it is read,
// whatever links lie in it.
type folderArchive struct {
	name string
	root *os.Root
}

func (f *folderArchive) place() string { return f.name }

func (f *folderArchive) document(_ context.Context, path, _ string) ([]byte, string, error) {
	file, err := f.root.Open(filepath.FromSlash(path))
	if err != nil {
		return nil, "", err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxDocument+1))
	if len(b) > maxDocument {
		err = wrong(path, "it has more than %d bytes", maxDocument)
	}
	return b, "", err
}

func (f *folderArchive) download(_ context.Context, path string, size int64, into *os.File) error {
	file, err := f.root.Open(filepath.FromSlash(path))
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := into.Seek(0, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(into, io.LimitReader(file, size+1))
	if err == nil && n != size {
		err = wrong(path, "it has not %d bytes", size)
	}
	return err
}

// A webArchive is an archive at an address.
type webArchive struct {
	http *http.Client
	base *url.URL // ends with a slash
	sign func(*http.Request) error
	took func(n int64) // told of bytes that came
}

func (a *webArchive) place() string { return a.base.String() }

func (a *webArchive) request(ctx context.Context, path string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base.JoinPath(path).String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity") // what is coded is named so
	return req, a.sign(req)
}

func (a *webArchive) document(ctx context.Context, path, tag string) (b []byte, newTag string, err error) {
	tries := fetchTries
	if path == stateName {
		tries = 1 // an archive that cannot be reached is told at once
	}
	err = a.often(ctx, tries, func(ctx context.Context, a *webArchive) error {
		req, err := a.request(ctx, path)
		if err != nil {
			return err
		}
		if tag != "" {
			req.Header.Set("If-None-Match", tag)
		}
		resp, err := a.http.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusNotModified:
			return errUnchanged
		case http.StatusOK:
		default:
			return refused(path, resp)
		}
		b, err = io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
		if len(b) > maxDocument {
			return wrong(path, "it has more than %d bytes", maxDocument)
		}
		newTag = resp.Header.Get("ETag")
		return err
	})
	return b, newTag, err
}

func (a *webArchive) download(ctx context.Context, path string, size int64, into *os.File) error {
	tag := ""
	return a.often(ctx, fetchTries, func(ctx context.Context, a *webArchive) error {
		at, err := into.Seek(0, io.SeekEnd)
		if err != nil || at == size {
			return err
		}
		if at > size {
			at = 0
		}
		req, err := a.request(ctx, path)
		if err != nil {
			return err
		}
		if at > 0 && tag != "" {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", at))
			req.Header.Set("If-Range", tag)
		}
		resp, err := a.http.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		tag = resp.Header.Get("ETag")
		switch begins := fmt.Sprintf("bytes %d-", at); {
		case resp.StatusCode == http.StatusOK:
			at = 0
			if err := into.Truncate(0); err != nil {
				return err
			}
		case resp.StatusCode == http.StatusPartialContent && strings.HasPrefix(resp.Header.Get("Content-Range"), begins):
		default:
			return refused(path, resp)
		}
		if _, err := into.Seek(at, io.SeekStart); err != nil {
			return err
		}
		n, err := io.Copy(into, io.LimitReader(a.watched(resp.Body), size-at+1))
		switch {
		case err != nil:
			return err
		case at+n < size && n == resp.ContentLength:
			return wrong(path, "it has %d bytes, and its manifest says %d", at+n, size)
		case at+n < size:
			return fmt.Errorf("%s: %w", path, io.ErrUnexpectedEOF)
		case at+n > size:
			return wrong(path, "it has more than the %d bytes that its manifest says", size)
		}
		return nil
	})
}

// refused is what an answer amounts to that is no file.
func refused(path string, resp *http.Response) error {
	return fmt.Errorf("%s: %w", path, readProblem(resp))
}

// watched tells of bytes as they come.
func (a *webArchive) watched(r io.Reader) io.Reader {
	return readFunc(func(b []byte) (int, error) {
		n, err := r.Read(b)
		if a.took != nil {
			a.took(int64(n))
		}
		return n, err
	})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

// often tries until it is done, or is no use to try again.
func (a *webArchive) often(ctx context.Context, tries int, try func(context.Context, *webArchive) error) error {
	for failures := 1; ; failures++ {
		err := a.within(ctx, try)
		var p *Problem
		var bad *DigestError
		again := !errors.Is(err, errUnchanged) && !errors.As(err, &bad)
		if errors.As(err, &p) {
			again = p.Status == http.StatusTooManyRequests || p.Status >= 500
		}
		switch {
		case err == nil, !again, failures == tries:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
		wait := time.Duration(float64(min(maxFetchWait, fetchWait<<(failures-1))) * (0.5 + rand.Float64()/2))
		if p != nil && p.RetryAfter > 0 {
			wait = min(p.RetryAfter, 10*maxFetchWait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// within ends a try in which the server falls silent.
func (a *webArchive) within(ctx context.Context, try func(context.Context, *webArchive) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	quiet := time.AfterFunc(fetchSilence, func() { end(fmt.Errorf("the server sent nothing for %s", fetchSilence)) })
	defer quiet.Stop()
	told := a.took
	watching := *a
	watching.took = func(n int64) {
		quiet.Reset(fetchSilence)
		if told != nil {
			told(n)
		}
	}
	err := try(ctx, &watching)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// isGone reports a file that is not there.
func isGone(err error) bool {
	var p *Problem
	return errors.Is(err, fs.ErrNotExist) || errors.As(err, &p) && (p.Status == http.StatusNotFound || p.Status == http.StatusGone)
}

// unsigned sends no token: the archive is somebody else's.
func unsigned(agent string) func(*http.Request) error {
	return func(req *http.Request) error {
		req.Header.Set("User-Agent", agent)
		return nil
	}
}

// shown leaves of a state what a copy has: it need not have all hours and roll-ups.
func (f *folderArchive) shown(s *DigestState) {
	has := func(manifest string) bool {
		_, err := f.root.Stat(filepath.FromSlash(manifest))
		return err == nil
	}
	s.Rollups = slices.DeleteFunc(s.Rollups, func(r DigestRollup) bool { return !has(r.Manifest) })
	for seq := s.Seq; seq >= s.FirstSeq; seq-- {
		if !has(hourFolder(s.From.Add(-time.Duration(s.Seq-seq)*time.Hour)) + manifestName) {
			s.FirstSeq = seq + 1
			break
		}
	}
}
