package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
)

// recorded is what go test -json writes for a package with one test of each
// kind, and for one that does not compile.
const recorded = `{"ImportPath":"m/b [m/b.test]","Action":"build-output","Output":"b_test.go:3:28: undefined: x\n"}
{"ImportPath":"m/b [m/b.test]","Action":"build-fail"}
{"Action":"start","Package":"m/a"}
{"Action":"run","Package":"m/a","Test":"TestGood"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"    a_test.go:4: of no interest\n"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"--- PASS: TestGood (0.25s)\n"}
{"Action":"pass","Package":"m/a","Test":"TestGood","Elapsed":0.25}
{"Action":"run","Package":"m/a","Test":"TestBeside"}
{"Action":"run","Package":"m/a","Test":"TestBeside/one"}
{"Action":"pause","Package":"m/a","Test":"TestBeside/one"}
{"Action":"run","Package":"m/a","Test":"TestBeside/two"}
{"Action":"pass","Package":"m/a","Test":"TestBeside/two","Elapsed":0.5}
{"Action":"cont","Package":"m/a","Test":"TestBeside/one"}
{"Action":"pass","Package":"m/a","Test":"TestBeside/one","Elapsed":3}
{"Action":"pass","Package":"m/a","Test":"TestBeside","Elapsed":0.5}
{"Action":"run","Package":"m/a","Test":"TestBad"}
{"Action":"run","Package":"m/a","Test":"TestBad/part"}
{"Action":"output","Package":"m/a","Test":"TestBad/part","Output":"    a_test.go:5: got 1, want 2\n"}
{"Action":"output","Package":"m/a","Test":"TestBad/part","Output":"--- FAIL: TestBad/part (0.00s)\n"}
{"Action":"fail","Package":"m/a","Test":"TestBad/part","Elapsed":0}
{"Action":"output","Package":"m/a","Test":"TestBad","Output":"--- FAIL: TestBad (1.50s)\n"}
{"Action":"fail","Package":"m/a","Test":"TestBad","Elapsed":1.5}
{"Action":"run","Package":"m/a","Test":"TestLeft"}
{"Action":"output","Package":"m/a","Test":"TestLeft","Output":"    a_test.go:6: no cat here\n"}
{"Action":"output","Package":"m/a","Test":"TestLeft","Output":"--- SKIP: TestLeft (0.00s)\n"}
{"Action":"skip","Package":"m/a","Test":"TestLeft","Elapsed":0}
{"Action":"run","Package":"m/a","Test":"TestGone"}
{"Action":"output","Package":"m/a","Test":"TestGone","Output":"fatal error: all goroutines are asleep\n"}
{"Action":"output","Package":"m/a","Output":"FAIL\tm/a\t2.100s\n"}
{"Action":"fail","Package":"m/a","Elapsed":2.1}
FAIL	m/b [build failed]
`

func TestAReportTellsWhatFailedAndWhatWasSlow(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out)
	if err := r.read(strings.NewReader(recorded)); err != nil {
		t.Fatal(err)
	}
	r.summary()
	const want = `b_test.go:3:28: undefined: x
    a_test.go:5: got 1, want 2
--- FAIL: TestBad/part (0.00s)
--- FAIL: TestBad (1.50s)
FAIL	m/a	2.100s
fatal error: all goroutines are asleep
FAIL	m/b [build failed]

slowest tests:
     3.50 s  m/a TestBeside
     1.50 s  m/a TestBad
     0.25 s  m/a TestGood
     0.00 s  m/a TestLeft
left out:
  m/a TestLeft: a_test.go:6: no cat here
failed:
  m/a TestBad/part
  m/a TestBad
  m/a TestGone
4 passed, 3 failed, 1 left out
`
	if got := out.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestTheExitCodeSaysWhetherEverythingWasTestedAndPassed(t *testing.T) {
	const (
		pass = `{"Action":"run","Package":"m","Test":"TestA"}\n{"Action":"pass","Package":"m","Test":"TestA"}\n`
		skip = `{"Action":"run","Package":"m","Test":"TestB"}\n{"Action":"skip","Package":"m","Test":"TestB"}\n`
	)
	for _, c := range []struct {
		name   string
		script string
		strict bool
		want   int
	}{
		{"all passed", "printf '" + pass + "'", true, 0},
		{"the code of the tool is kept", "printf '" + pass + "'; exit 2", false, 2},
		{"a tool that was killed failed", "printf '" + pass + "'; kill -9 $$", false, 1},
		{"nothing was tested", "exit 0", false, 1},
		{"a test was left out at home", "printf '" + pass + skip + "'", false, 0},
		{"a test was left out where none may be", "printf '" + pass + skip + "'", true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, faults bytes.Buffer
			if got := run(t.Context(), []string{"sh", "-c", c.script}, c.strict, &out, &faults); got != c.want {
				t.Errorf("got exit code %d, want %d; it printed:\n%s%s", got, c.want, out.String(), faults.String())
			}
		})
	}
}

// cancelOn cancels when a text is written.
type cancelOn struct {
	bytes.Buffer
	text   string
	cancel func()
}

func (c *cancelOn) Write(b []byte) (int, error) {
	if strings.Contains(string(b), c.text) {
		c.cancel()
	}
	return c.Buffer.Write(b)
}

func TestTestsThatDoNotEndAreEndedAndNamed(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	var faults bytes.Buffer
	out := &cancelOn{text: "begun", cancel: func() { cancel(errors.New("the limit passed")) }}
	// The shell waits for a child that holds its output open, as go test does.
	script := `echo '{"Action":"run","Package":"m","Test":"TestEndless"}'
		echo '{"Action":"output","Package":"m","Output":"begun\n"}'; sleep 1000; exit 0`
	if got := run(ctx, []string{"sh", "-c", script}, false, out, &faults); got != 1 {
		t.Errorf("got exit code %d, want 1", got)
	}
	for _, want := range []string{"still running:\n  m TestEndless\n", "the limit passed"} {
		if got := out.String() + faults.String(); !strings.Contains(got, want) {
			t.Errorf("got:\n%s\nwant in it: %q", got, want)
		}
	}
}
