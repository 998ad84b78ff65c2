//go:build !linux

package bench

import "context"

// runEpoll is runPortable where there is no epoll.
func (p *pool) runEpoll(ctx context.Context) error { return p.runPortable(ctx) }
