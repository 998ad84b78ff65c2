package graph

import (
	"context"
	"errors"
	"testing"
)

func TestWhatACallerLeavesBehindIsNotAppliedAfterIt(t *testing.T) {
	g := newRig(t, Options{})
	g.loop(func(ctx context.Context, s *Store) {
		gone, leave := context.WithCancel(ctx)
		s.writing.Lock() // nothing is applied for now
		ran, left := false, make(chan error)
		go func() { left <- s.do(gone, func(*txn) { ran = true }) }()
		leave()
		err := <-left
		s.writing.Unlock()
		if err := errors.Join(s.do(ctx, func(*txn) {}), s.do(ctx, func(*txn) {})); err != nil {
			t.Error(err)
		}
		if ran || !errors.Is(err, context.Canceled) {
			t.Errorf("applied: %t, %v", ran, err)
		}
	})
}

func TestWhoLeavesWhileItsWorkIsAppliedWaitsForTheEndOfThat(t *testing.T) {
	g := newRig(t, Options{})
	g.loop(func(ctx context.Context, s *Store) {
		gone, leave := context.WithCancel(ctx)
		begun, goOn, left, ended := make(chan struct{}), make(chan struct{}), make(chan error), false
		go func() {
			left <- s.do(gone, func(*txn) {
				close(begun)
				<-goOn
				ended = true
			})
		}()
		<-begun
		leave()
		select {
		case err := <-left:
			t.Errorf("it left before that ended: %v", err)
			close(goOn)
			return
		default:
		}
		close(goOn)
		if err := <-left; !ended || err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("ended: %t, %v", ended, err)
		}
	})
}
