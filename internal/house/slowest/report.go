package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// shown is how many of the slowest tests are listed.
	shown = 10
	// maxLine bounds one line of events in bytes; go test cuts output far below.
	maxLine = 16 << 20
)

// An event is one line of go test -json, see go doc test2json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of what is built
	Test       string // "" for the package
	Elapsed    float64
	Output     string
}

// A test is one function of a package; with slashes, a part of one.
type test struct{ pkg, name string }

func (t test) String() string { return strings.TrimSpace(t.pkg + " " + t.name) }

// report gathers what the events say.
type report struct {
	w       io.Writer
	output  map[test][]string // of what has not passed so far
	running map[test]bool
	paused  map[test]bool          // waited to run beside others
	took    map[test]time.Duration // of whole tests, with all their parts
	skipped []string
	failed  []test
	passed  int
}

func newReport(w io.Writer) *report {
	return &report{w: w, output: map[test][]string{}, running: map[test]bool{},
		paused: map[test]bool{}, took: map[test]time.Duration{}}
}

// read takes events until they end. A line that is none is passed on.
func (r *report) read(events io.Reader) error {
	lines := bufio.NewScanner(events)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Action == "" {
			fmt.Fprintln(r.w, lines.Text())
			continue
		}
		r.take(e)
	}
	return lines.Err()
}

func (r *report) take(e event) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.w, e.Output)
	case "run":
		r.running[t] = true
	case "pause":
		r.paused[t] = true
	case "output":
		r.print(t, e.Output)
	case "pass", "fail", "skip":
		r.end(t, e)
	}
}

// print keeps what a test prints until it is known whether it matters. What a
// package says of itself is shown at once, but for the word PASS.
func (r *report) print(t test, text string) {
	switch {
	case strings.HasPrefix(text, "=== "):
	case t.name != "":
		r.output[t] = append(r.output[t], text)
	case text != "PASS\n":
		fmt.Fprint(r.w, text)
	}
}

func (r *report) end(t test, e event) {
	delete(r.running, t)
	defer delete(r.output, t)
	if t.name == "" {
		if e.Action == "fail" {
			r.abandon(t.pkg)
		}
		return
	}
	// The time of a test holds that of its parts, but for those that run in parallel.
	if whole, _, part := strings.Cut(t.name, "/"); !part || r.paused[t] {
		r.took[test{t.pkg, whole}] += time.Duration(e.Elapsed * float64(time.Second))
	}
	switch e.Action {
	case "pass":
		r.passed++
	case "skip":
		r.skipped = append(r.skipped, strings.TrimSpace(fmt.Sprintf("%s: %s", t, reason(r.output[t]))))
	case "fail":
		r.fail(t)
	}
}

func (r *report) fail(t test) {
	r.failed = append(r.failed, t)
	r.tell(t)
}

// tell prints what a test printed.
func (r *report) tell(t test) {
	for _, text := range r.output[t] {
		fmt.Fprint(r.w, text)
	}
}

// abandon counts the tests of a package that ended before they did as failed.
func (r *report) abandon(pkg string) {
	for _, t := range r.unfinished() {
		if t.pkg == pkg {
			delete(r.running, t)
			r.fail(t)
		}
	}
}

func (r *report) unfinished() []test {
	return slices.SortedFunc(maps.Keys(r.running), func(a, b test) int { return cmp.Compare(a.String(), b.String()) })
}

// reason is what a skipped test says beside that it is one.
func reason(output []string) string {
	var words []string
	for _, text := range output {
		if text = strings.TrimSpace(text); text != "" && !strings.HasPrefix(text, "---") {
			words = append(words, text)
		}
	}
	return strings.Join(words, " ")
}

// summary prints what is left to say when all is done.
func (r *report) summary() {
	for _, t := range r.unfinished() {
		r.tell(t)
	}
	slow := slices.SortedFunc(maps.Keys(r.took), func(a, b test) int {
		return cmp.Or(cmp.Compare(r.took[b], r.took[a]), cmp.Compare(a.String(), b.String()))
	})
	fmt.Fprintln(r.w, "\nslowest tests:")
	for _, t := range slow[:min(len(slow), shown)] {
		fmt.Fprintf(r.w, "  %7.2f s  %s\n", r.took[t].Seconds(), t)
	}
	r.list("left out:", r.skipped)
	r.list("still running:", texts(r.unfinished()))
	r.list("failed:", texts(r.failed))
	fmt.Fprintf(r.w, "%d passed, %d failed, %d left out\n", r.passed, len(r.failed), len(r.skipped))
}

func (r *report) list(head string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(r.w, head)
	for _, line := range lines {
		fmt.Fprintln(r.w, "  "+line)
	}
}

func texts(tests []test) (list []string) {
	for _, t := range tests {
		list = append(list, t.String())
	}
	return list
}
