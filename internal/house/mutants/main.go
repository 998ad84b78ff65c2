// Command mutants breaks one line of the product at a time, in a copy of the
// repository, and runs the tests that are to notice:
//
//	go run ./internal/house/mutants [-only word] [repository]
//
// mutants.txt lists what is broken, how, and which tests must go red. A mutant is
// killed if they do. It survives if they pass, and then a test is missing. The
// command fails if one survives, does not build, or if its line is not found.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// limit is how long the tests of one mutant may take: one that hangs is killed too.
const limit = time.Minute

//go:embed mutants.txt
var table string

func main() {
	only := flag.String("only", "", "run only those whose description has this word")
	flag.Parse()
	root := "."
	if flag.NArg() > 0 {
		root = flag.Arg(0)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed, err := run(ctx, root, *only, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
	}
	if err != nil || failed > 0 {
		os.Exit(1)
	}
}

// run tries each mutant whose description has the word only, and returns how many
// were not killed.
func run(ctx context.Context, root, only string, out io.Writer) (failed int, err error) {
	mutants, err := parse(table)
	if err != nil {
		return 0, err
	}
	work, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)
	if err := copyTree(work, root); err != nil {
		return 0, err
	}
	sound := map[string]bool{} // rooms that build and tests that pass when nothing is broken
	tried := 0
	for _, m := range mutants {
		if !strings.Contains(m.what, only) {
			continue
		}
		tried++
		if !sound[m.test] {
			room, _, _ := strings.Cut(m.test, " ")
			var text string
			if !sound[room] {
				text, err = build(ctx, work, room, room)
			}
			if err == nil {
				text, err = test(ctx, work, m.test, room)
			}
			if err != nil {
				return failed, fmt.Errorf("%s fails before anything is broken: %w\n%s", m.test, err, text)
			}
			sound[room], sound[m.test] = true, true
		}
		began := time.Now()
		verdict := m.try(ctx, work)
		if ctx.Err() != nil {
			return failed, ctx.Err()
		}
		if verdict != killed {
			failed++
		}
		fmt.Fprintf(out, "%-14s %5.1f s  %s: %s\n", verdict, time.Since(began).Seconds(), m.file, m.what)
	}
	fmt.Fprintf(out, "%d mutants, %d not killed\n", tried, failed)
	if tried == 0 {
		return failed, errors.New("there is no such mutant")
	}
	return failed, nil
}

// A verdict says what became of a mutant.
type verdict string

const (
	killed   verdict = "killed"
	survived verdict = "SURVIVED"
	notFound verdict = "NOT FOUND"
	notBuilt verdict = "DOES NOT BUILD"
)

// try breaks the line in work, runs the tests and mends it.
func (m *mutant) try(ctx context.Context, work string) verdict {
	path := filepath.Join(work, filepath.FromSlash(m.file))
	text, err := os.ReadFile(path)
	broken, found := m.apply(string(text))
	if err != nil || !found || os.WriteFile(path, []byte(broken), 0o644) != nil {
		return notFound
	}
	defer os.WriteFile(path, text, 0o644) // or what follows fails to be found
	room, _, _ := strings.Cut(m.test, " ")
	if _, err := build(ctx, work, room, "broken"); err != nil {
		return notBuilt
	}
	if _, err := test(ctx, work, m.test, "broken"); err == nil {
		return survived
	}
	return killed
}

// program is where the tests of a room are, built, under a name.
func program(work, name string) string {
	return filepath.Join(work, "bin", strings.ReplaceAll(name, "/", "-")+".test")
}

// build builds the tests of a room under a name.
func build(ctx context.Context, work, room, name string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-o", program(work, name), "./"+room)
	cmd.Dir = work
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// test runs the tests of a row, "room names", with names as for -run, by what was
// built under a name.
func test(ctx context.Context, work, row, name string) (string, error) {
	room, names, _ := strings.Cut(row, " ")
	cmd := exec.CommandContext(ctx, program(work, name), "-test.failfast", "-test.timeout", limit.String(), "-test.run", names)
	cmd.Dir = filepath.Join(work, filepath.FromSlash(room))
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// copyTree copies the files of a repository, but not its history and what is built.
func copyTree(to, from string) error {
	root, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		name, relErr := filepath.Rel(root, path)
		switch {
		case err != nil || relErr != nil:
			return errors.Join(err, relErr)
		case entry.IsDir() && (name == ".git" || name == "bin"):
			return filepath.SkipDir
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case name == ".git" || !entry.Type().IsRegular(): // of a further work tree .git is a file
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), text, 0o644)
	})
}
