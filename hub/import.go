package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sort"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/auth"
	"golang.org/x/sync/errgroup"
)

const (
	// importLines and importBytes bound the lines that are decoded at once.
	importLines = 256
	importBytes = 256 << 10
)

// ImportProgress and ImportResult are those of the store.
type (
	ImportProgress = graph.ImportProgress
	ImportResult   = graph.ImportResult
)

// LineError says which line of an import was refused, counted from 1.
type LineError struct {
	Line int
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

func (e *LineError) Unwrap() error { return e.Err }

// Import makes the store of the hub that cfg describes, which does not run and
// holds nothing yet, from a snapshot: the last update of each resource, one JSON
// object a line. Lines returns the next of them, valid until it is called again,
// and [io.EOF] at the end; it is called by one goroutine at a time. Empty lines
// are passed over.
//
// All of it is in the store when Import returns nil, and none of it otherwise. A
// line that is refused is a [LineError]. See [graph.Import] for what a snapshot
// may hold.
func Import(ctx context.Context, cfg Config, log *slog.Logger, lines func() ([]byte, error),
	progress func(ImportProgress)) (ImportResult, error) {
	if err := cfg.Check(); err != nil {
		return ImportResult{}, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := &Hub{cfg: cfg, clock: newClock(cfg, thisMachine.now)}
	var res ImportResult
	s := snapshot{o: DecodeOptions{Now: h.clock.Now(), Schemes: cfg.Schemes}, decoded: make(chan *importBatch, runtime.GOMAXPROCS(0))}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(s.decoded)
		return s.read(ctx, lines)
	})
	g.Go(func() (err error) {
		next := func() (graph.Update, error) { return s.next(ctx) }
		res, err = graph.Import(ctx, cfg.store(), h.storeOptions(log), auth.Local, next, progress)
		var invalid *graph.InvalidError
		if errors.As(err, &invalid) {
			err = &LineError{s.line(invalid.Item), fmt.Errorf("%s: %s", invalid.Field, invalid.Reason)}
		}
		return err
	})
	return res, g.Wait()
}

// snapshot decodes lines on all cores and yields them in their order.
type snapshot struct {
	o       DecodeOptions
	decoded chan *importBatch
	batch   *importBatch // that next takes from
	taken   int          // updates taken of all batches
	empty   []int        // for each empty line, how many updates came before it
}

// importBatch is some lines on their way.
type importBatch struct {
	text    []byte
	ends    []int // of each line in text
	first   int   // number of the first line
	updates []graph.Update
	empty   []int // for each empty line, how many updates of the batch came before it
	err     error // what follows the updates
	ready   chan struct{}
}

// read cuts the lines into batches and has each decoded beside the others.
func (s *snapshot) read(ctx context.Context, lines func() ([]byte, error)) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	defer g.Wait() //nolint:errcheck // decoding leaves its error in the batch
	for n := 1; ; {
		b := &importBatch{first: n, ready: make(chan struct{})}
		for len(b.ends) < importLines && len(b.text) < importBytes && b.err == nil {
			var line []byte
			if line, b.err = lines(); b.err == nil {
				b.text = append(b.text, line...)
				b.ends = append(b.ends, len(b.text))
			}
		}
		n += len(b.ends)
		last := b.err != nil
		g.Go(func() error {
			defer close(b.ready)
			b.decode(s.o)
			return nil
		})
		select {
		case s.decoded <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
		if last {
			return nil
		}
	}
}

// decode decodes the lines up to the first that is refused.
func (b *importBatch) decode(o DecodeOptions) {
	b.updates = make([]graph.Update, 0, len(b.ends))
	d := updateDecoder{o: o}
	start := 0
	for i, end := range b.ends {
		d.scanner.b, d.scanner.i, d.dep = b.text[start:end], 0, -1
		start = end
		if d.peek(); d.i == len(d.b) {
			b.empty = append(b.empty, len(b.updates))
			continue
		}
		var u graph.Update
		err := d.update(&u)
		if err == nil {
			d.field = fieldNone
			err = d.end()
		}
		if err != nil {
			e := *refusalOf(d.blame(err))
			e.item = nil // the line says it
			b.err = &LineError{b.first + i, &e}
			return
		}
		b.updates = append(b.updates, u)
	}
}

// next returns the next update.
func (s *snapshot) next(ctx context.Context) (graph.Update, error) {
	for s.batch == nil || len(s.batch.updates) == 0 {
		if s.batch != nil && s.batch.err != nil {
			return graph.Update{}, s.batch.err
		}
		select {
		case b, ok := <-s.decoded:
			if !ok {
				return graph.Update{}, io.ErrUnexpectedEOF // reading has failed
			}
			<-b.ready
			for _, n := range b.empty {
				s.empty = append(s.empty, s.taken+n)
			}
			s.batch = b
		case <-ctx.Done():
			return graph.Update{}, ctx.Err()
		}
	}
	u := s.batch.updates[0]
	s.batch.updates = s.batch.updates[1:]
	s.taken++
	return u, nil
}

// line is the number of the line that the item-th update stood in.
func (s *snapshot) line(item int) int {
	empty := sort.SearchInts(s.empty, item+1)
	return item + 1 + empty
}
