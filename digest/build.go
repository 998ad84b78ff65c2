package digest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/graph/bulk"
)

const (
	// sortMemory bounds what is sorted in memory at once, in bytes. Twice as much may be
	// in use, and as much again for what is sorted a second time.
	sortMemory = 64 << 20
	// readLimit is how many notices are asked of a channel at once.
	readLimit = 4096
)

// errTrimmed reports that the journal lost a part of an hour while it was read.
var errTrimmed = errors.New("the journal was trimmed")

// A making is the building of one digest.
type making struct {
	d       disk
	folder  string // that is not whole yet
	m       *Manifest
	files   *binder
	base    string // address of the archive
	prev    string // folder of the hour before, below the channel's
	origins *origins
	open    []*partitioned
}

// abandon closes what was being written when it failed.
func (k *making) abandon() {
	for _, p := range k.open {
		if p.draft != nil {
			p.draft.abandon()
		}
	}
}

// byURI collects the notices of an hour, sorted by resource and position.
func (k *making) byURI(ctx context.Context, ch *Channel, after, until graph.Cursor) (*bulk.Sorter, error) {
	sorted := bulk.NewSorter(k.d.FS, path.Join(k.folder, "sort-uri"), sortMemory)
	var key, value []byte
	for after.Seq < until.Seq {
		if err := ctx.Err(); err != nil {
			return sorted, err
		}
		ns, next, err := ch.Read(after, readLimit)
		if reset := (*graph.ResetError)(nil); errors.As(err, &reset) && reset.Reason == "trimmed" {
			err = errTrimmed
		}
		if err != nil {
			return sorted, err
		}
		if next.Seq <= after.Seq && len(ns) == 0 {
			return sorted, fmt.Errorf("channel %s can be read up to %s and not to %s", ch.Name, after, until)
		}
		for i := range ns {
			n := &ns[i]
			if n.Cursor.Seq > until.Seq {
				break
			}
			e := entryOf(n, k.m.From)
			// No URI has a zero byte, so resources sort by their bytes.
			key = binary.BigEndian.AppendUint64(append(append(key[:0], n.URI...), 0), n.Cursor.Seq)
			value = e.appendRecord(value[:0])
			if err := sorted.Add(key, value); err != nil {
				return sorted, err
			}
		}
		after = next
	}
	return sorted, nil
}

// hour makes the files of an hour from its notices.
func (k *making) hour(ctx context.Context, ch *Channel, after, until graph.Cursor) (err error) {
	notices, err := k.byURI(ctx, ch, after, until)
	defer func() { err = errors.Join(err, notices.Close()) }()
	if err != nil {
		return err
	}
	rising := bulk.NewSorter(k.d.FS, path.Join(k.folder, "sort-rising"), sortMemory/2)
	falling := bulk.NewSorter(k.d.FS, path.Join(k.folder, "sort-falling"), sortMemory/2)
	defer func() { err = errors.Join(err, rising.Close(), falling.Close()) }()
	out := k.partitioned(RoleNDJSON)
	var key, record, line []byte
	keep := func(e *Entry) error {
		k.origins.note(e)
		k.count(e)
		line = append(e.appendLine(line[:0]), '\n')
		if err := out.write(line); err != nil {
			return err
		}
		record = e.appendRecord(record[:0])
		key = binary.BigEndian.AppendUint64(key[:0], e.Offset)
		if err := rising.Add(key, record); err != nil {
			return err
		}
		key = binary.BigEndian.AppendUint64(key[:0], ^e.Offset)
		return falling.Add(key, record)
	}
	if err := coalesce(ctx, notices, keep); err != nil {
		return err
	}
	if err := out.end(); err != nil {
		return err
	}
	if err := k.views(ctx, falling, RoleAtom, RoleJSONFeed); err != nil {
		return err
	}
	return k.views(ctx, rising, RoleChangeList)
}

// coalesce gives what each resource had, by URI.
func coalesce(ctx context.Context, notices *bulk.Sorter, give func(*Entry) error) error {
	it, err := notices.Iter()
	if err != nil {
		return err
	}
	defer it.Close()
	var at Entry
	var uri []byte
	for n := 0; it.Next(); n++ {
		if n%readLimit == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		key := it.Key()
		e, err := readRecord(it.Value())
		if err != nil {
			return err
		}
		if of := key[:len(key)-9]; at.Count > 0 && bytes.Equal(of, uri) {
			at.then(&e)
			continue
		}
		if at.Count > 0 {
			if err := give(&at); err != nil {
				return err
			}
		}
		at, uri = e, append(uri[:0], key[:len(key)-9]...)
	}
	if err := it.Err(); err != nil || at.Count == 0 {
		return err
	}
	return give(&at)
}

// count adds an entry to the sums of the manifest.
func (k *making) count(e *Entry) {
	k.m.Entries++
	k.m.Notices += e.Count
	k.m.Changes[e.Change]++
	k.m.Reasons[e.Reason]++
}

// views writes the entries in the order in which they were sorted, once in each role.
func (k *making) views(ctx context.Context, sorted *bulk.Sorter, roles ...string) error {
	outs := make([]*partitioned, len(roles))
	for i, role := range roles {
		outs[i] = k.partitioned(role)
	}
	it, err := sorted.Iter()
	if err != nil {
		return err
	}
	defer it.Close()
	var line []byte
	for n := 0; it.Next(); n++ {
		if n%readLimit == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		e, err := readRecord(it.Value())
		if err != nil {
			return err
		}
		line = e.appendLine(line[:0])
		for _, out := range outs {
			if err := out.add(&e, line); err != nil {
				return err
			}
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	for _, out := range outs {
		if err := out.end(); err != nil {
			return err
		}
	}
	return nil
}

// partitioned is a role of a digest, in as many files as it takes.
type partitioned struct {
	k     *making
	role  string
	part  int
	draft *draft // nil between parts
	view  view   // nil for NDJSON
}

func (k *making) partitioned(role string) *partitioned {
	p := &partitioned{k: k, role: role}
	k.open = append(k.open, p)
	return p
}

// write adds a line that is an entry.
func (p *partitioned) write(line []byte) error {
	if err := p.open(); err != nil {
		return err
	}
	p.draft.about.Entries++
	_, err := p.draft.Write(line)
	return err
}

// add adds an entry to a view.
func (p *partitioned) add(e *Entry, line []byte) error {
	if err := p.open(); err != nil {
		return err
	}
	p.draft.about.Entries++
	return p.view.add(e, line)
}

// open begins a part if the one before is full.
func (p *partitioned) open() (err error) {
	if p.draft != nil && p.draft.about.Entries < MaxPart {
		return nil
	}
	if p.draft != nil {
		if err := p.close(); err != nil {
			return err
		}
	}
	p.part++
	if p.draft, err = p.k.d.create(p.k.folder, File{Role: p.role, Href: partName(p.role, p.part), Type: mediaType(p.role)}); err != nil {
		return err
	}
	h := &heading{base: p.k.base, m: p.k.m, part: p.part, parts: max(1, int((p.k.m.Entries+MaxPart-1)/MaxPart)), prev: p.k.prev}
	switch p.role {
	case RoleAtom:
		p.view = newAtom(p.draft, h)
	case RoleJSONFeed:
		p.view = newJSONFeed(p.draft, h)
	case RoleChangeList:
		p.view = newChangeList(p.draft, h)
	}
	return nil
}

func (p *partitioned) close() error {
	if p.view != nil {
		if err := p.view.end(); err != nil {
			return err
		}
	}
	f, err := p.draft.end()
	if p.draft = nil; err == nil {
		p.k.files.add(f)
	}
	return err
}

// end closes the last part. A role without entries has one all the same.
func (p *partitioned) end() error {
	if p.draft == nil {
		if err := p.open(); err != nil {
			return err
		}
	}
	return p.close()
}
