package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/graph"
)

// importConfig is that of a hub with data of its own.
func importConfig(t *testing.T) Config {
	cfg := DefaultConfig()
	cfg.Data = t.TempDir()
	return cfg
}

func linesOf(text string) func() ([]byte, error) {
	lines := strings.SplitAfter(text, "\n")
	return func() ([]byte, error) {
		if len(lines) == 0 {
			return nil, io.EOF
		}
		line := lines[0]
		lines = lines[1:]
		return []byte(line), nil
	}
}

// manyLines are n updates, an empty line before each hundredth.
func manyLines(n int) string {
	var b strings.Builder
	for i := range n {
		if i%100 == 0 {
			b.WriteString(" \n")
		}
		fmt.Fprintf(&b, "{\"id\":\"i%d\",\"uri\":\"https://a.example/%d\",\"hash\":\"h\",\"deps\":[\"https://a.example/t%d\"]}\n", i, i, i%7)
	}
	return b.String()
}

func TestASnapshotIsImportedInItsOrder(t *testing.T) {
	const n = 3 * importLines
	cfg := importConfig(t)
	res, err := Import(context.Background(), cfg, nil, linesOf(manyLines(n)), nil)
	if err != nil || res.Updates != n || res.Resources != n+7 || res.Edges != n {
		t.Fatalf("imported %+v, %v", res, err)
	}
	s, err := graph.Open(filepath.Join(cfg.Data, "store"), graph.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	items, _, err := s.Dependents("https://a.example/t3", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, item := range items {
		if want := fmt.Sprint("https://a.example/", 7*i+3); item.URI != want {
			t.Fatalf("dependent %d is %s, want %s", i, item.URI, want)
		}
	}
}

func TestALineThatIsRefusedIsNamed(t *testing.T) {
	before := manyLines(2*importLines + 10)
	at := strings.Count(before, "\n") + 1
	for name, tt := range map[string]struct {
		line, want string
	}{
		"no JSON":                       {`{"uri"`, "want : at byte 7"},
		"an array":                      {`[]`, "an array is not an object"},
		"two updates":                   {`{"uri":"https://a.example/x"}{"uri":"https://a.example/y"}`, "something follows the JSON value at byte 29"},
		"an unknown field":              {`{"url":"https://a.example/x"}`, "url: an update has no such field"},
		"a URI that is not canonical":   {`{"uri":"https://A.example/x"}`, "uri: URI"},
		"a second update of a resource": {`{"uri":"https://a.example/5"}`, "uri: a second update of https://a.example/5"},
		"a delete":                      {`{"uri":"https://a.example/x","action":"delete"}`, "action: a snapshot has no deletes"},
		"changed aspects":               {`{"uri":"https://a.example/x","version":"1","aspects":["C"]}`, "aspects: a snapshot has no changes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Import(context.Background(), importConfig(t), nil, linesOf(before+tt.line+"\n"+before), nil)
			var line *LineError
			if !errors.As(err, &line) || line.Line != at || !strings.HasPrefix(line.Err.Error(), tt.want) {
				t.Errorf("got %v, want line %d: %s", err, at, tt.want)
			}
		})
	}
}

func TestAnImportEndsWithItsLines(t *testing.T) {
	broken := errors.New("the file broke")
	lines := linesOf(manyLines(1000))
	_, err := Import(context.Background(), importConfig(t), nil, func() ([]byte, error) {
		line, err := lines()
		if err != nil {
			err = broken
		}
		return line, err
	}, nil)
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	ctx, cancel := context.WithCancel(context.Background())
	lines = linesOf(manyLines(1000))
	_, err = Import(ctx, importConfig(t), nil, func() ([]byte, error) { cancel(); return lines() }, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
