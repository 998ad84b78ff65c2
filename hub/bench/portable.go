package bench

import (
	"context"
	"net"
	"sync"
	"time"
)

// portableSize is pieceSize where each reader has a buffer of its own.
const portableSize = 8 << 10

// runPortable is run with a goroutine for each reader.
func (p *pool) runPortable(ctx context.Context) error {
	var connections sync.WaitGroup
	defer connections.Wait()
	look := time.NewTicker(lookAround)
	defer look.Stop()
	for {
		p.mu.Lock()
		for _, r := range p.due(time.Now().UnixNano()) {
			connections.Go(func() { p.follow(ctx, r) })
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

// follow makes one connection and reads it until it ends.
func (p *pool) follow(ctx context.Context, r *reader) {
	err := p.connection(ctx, r)
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() == nil {
		p.left(r, err, time.Now().UnixNano())
	}
}

func (p *pool) connection(ctx context.Context, r *reader) error {
	var d net.Dialer
	if r.source.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: r.source.AsSlice()}
	}
	conn, err := d.DialContext(ctx, "tcp", p.hub.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	p.mu.Lock()
	r.standing = asking
	request := p.request(r)
	p.mu.Unlock()
	if _, err := conn.Write(request); err != nil {
		return err
	}
	piece := make([]byte, portableSize)
	for {
		n, err := conn.Read(piece)
		p.mu.Lock()
		if n > 0 {
			if fault := p.took(r, piece[:n], time.Now().UnixNano()); fault != nil {
				err = fault
			}
		}
		stalls := r.standing == stalling
		p.mu.Unlock()
		if err != nil {
			return err
		}
		if stalls {
			<-ctx.Done()
			return ctx.Err()
		}
	}
}
