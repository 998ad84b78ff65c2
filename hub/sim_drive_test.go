package hub

import (
	"slices"
	"time"
)

// drive plays the steps of a history, each drawn by chance.
func (s *sim) drive() {
	s.newReader()
	if s.rng.IntN(4) > 0 {
		s.boot()
	}
	s.newReader()
	for range s.plan.steps {
		s.step()
		s.quiet()
	}
}

// boot lets the hub hear of the whole world before anything goes wrong. In a
// history without it each thing is heard of when its turn comes.
func (s *sim) boot() {
	s.calm = true
	for x, t := range s.things {
		if t.kind == rendering {
			s.finish(s.begin(x, s.at))
		} else {
			s.edit(x)
		}
	}
	for _, p := range s.publishers {
		for len(p.queue) > 0 {
			p.batch, p.queue = s.pack(p.queue), nil
			s.publish(p)
			s.quiet()
		}
	}
	s.calm = false
}

// drawn returns one of a list that is not empty.
func drawn[T any](s *sim, list []T) (one T, i int) {
	i = s.rng.IntN(len(list))
	return list[i], i
}

// step does one thing. What cannot be done now is passed over.
func (s *sim) step() {
	switch p := s.rng.IntN(100); {
	case p < 18:
		x := s.rng.IntN(len(s.things))
		if s.things[x].kind != rendering {
			s.edit(x)
		}
	case p < 48:
		p, _ := drawn(s, s.publishers)
		s.publish(p)
	case p < 62:
		s.render()
	case p < 66:
		s.letTimePass()
	case p < 70:
		s.purge()
	case p < 73 && len(s.arrived) > 0:
		b, _ := drawn(s, s.arrived)
		s.resend(b)
	case p < 76 && !s.busy():
		s.editEdges()
	case p < 81 && !s.busy():
		s.changeChannel()
	case p < 89:
		s.moveReaders()
	default:
		s.trouble()
	}
}

// busy reports whether requests are under way or the disk is slow: whoever
// changes a channel holds a lock until it is on disk, and who waits for that lock
// keeps the clock from going on.
func (s *sim) busy() bool {
	return s.disk.delay.Load() > 0 || slices.ContainsFunc(s.publishers, func(p *simPublisher) bool { return p.call != nil })
}

// render does a piece of work of those who render.
func (s *sim) render() {
	switch p := s.rng.IntN(10); {
	case p < 3 && len(s.inbox) > 0: // a notice is answered, in any order
		n, i := drawn(s, s.inbox)
		s.inbox = slices.Delete(s.inbox, i, i+1)
		d := s.byURI[n.URI]
		if s.things[d].gone {
			return
		}
		s.note("%s is begun with token %d", n.URI, n.seq)
		token := s.at
		if !s.plan.newest {
			token.Seq = n.seq
		}
		s.makings = append(s.makings, s.begin(d, token))
	case p == 3 && len(s.inbox) > 0: // or lost
		_, i := drawn(s, s.inbox)
		s.inbox = slices.Delete(s.inbox, i, i+1)
	case p < 6 && len(s.makings) > 0:
		m, _ := drawn(s, s.makings)
		s.readOn(m)
	case p < 8 && len(s.makings) > 0:
		m, i := drawn(s, s.makings)
		s.makings = slices.Delete(s.makings, i, i+1)
		if s.rng.IntN(8) > 0 { // else who made it dies
			s.finish(m)
		}
	default: // an editor or a reader has it made
		if d := s.rendering(); d >= 0 {
			s.makings = append(s.makings, s.begin(d, s.at))
			if s.rng.IntN(2) == 0 {
				s.finish(s.makings[len(s.makings)-1])
				s.makings = s.makings[:len(s.makings)-1]
			}
		}
	}
}

// rendering draws one.
func (s *sim) rendering() int {
	first := slices.IndexFunc(s.things, func(t *simThing) bool { return t.kind == rendering })
	return first + s.rng.IntN(len(s.things)-first)
}

func (s *sim) purge() {
	if d := s.rendering(); !s.things[d].gone {
		s.drop(d)
	}
}

// letTimePass lets some time pass.
func (s *sim) letTimePass() {
	d := []time.Duration{100 * time.Millisecond, time.Second, 7 * time.Second, time.Minute, 4 * time.Minute}[s.rng.IntN(5)]
	if s.rng.IntN(10) == 0 {
		d = 17 * time.Minute
	}
	s.note("%s pass", d)
	pass(d)
}

func (s *sim) moveReaders() {
	if len(s.readers) < 6 && s.rng.IntN(3) == 0 {
		s.newReader()
		return
	}
	// A stream also ends by a chance that is not ours: what is drawn does not depend
	// on whether it has.
	r, _ := drawn(s, s.readers)
	if s.rng.IntN(2) == 0 {
		s.note("reader %d goes", r.n)
		r.cut()
		return
	}
	s.connect(r)
}

// trouble is what the machine of the hub suffers.
func (s *sim) trouble() {
	switch p := s.rng.IntN(10); {
	case p < 3 && s.plan.slow:
		if s.disk.delay.Load() > 0 {
			s.hasten()
			return
		}
		if s.disk.room() {
			s.counts["slow disks"]++
			s.disk.delay.Store(int64(time.Duration(30+s.rng.IntN(970)) * time.Millisecond))
			s.note("the disk takes %s", time.Duration(s.disk.delay.Load()))
		}
	case p < 6 && s.plan.cuts:
		if s.plan.slow && s.rng.IntN(2) == 0 && s.disk.room() { // in the middle of something
			s.disk.delay.Store(int64(stall))
			for _, p := range s.publishers {
				s.publish(p)
				if p.call != nil && s.rng.IntN(2) == 0 {
					pass(time.Millisecond)
				}
			}
			pass(time.Millisecond)
		}
		s.die()
	case p < 7 && s.plan.breaks && !s.busy():
		s.breakDisk(func() {
			for _, p := range s.publishers {
				s.publish(p)
			}
			s.ask("POST", "/v1/updates", `{"uri":"https://e.example/last","version":"`+time.Now().Format("20060102150405")+`"}`)
		})
	case p < 8 && s.plan.restarts && !s.busy():
		s.restart()
	case s.plan.sets:
		d := time.Duration(s.rng.IntN(int(10 * time.Minute)))
		if s.rng.IntN(2) == 0 {
			d = -time.Duration(s.rng.IntN(int(2 * time.Minute)))
		}
		s.skew.Store(max(s.skew.Load()+int64(d), -int64(maxSkew)))
		s.note("the hub's clock is set to %s", time.Duration(s.skew.Load()))
		s.counts["set clocks"]++
	}
}

// hasten makes the disk fast, and waits for what was on its way to it.
func (s *sim) hasten() {
	pass(time.Duration(s.disk.delay.Swap(0)))
	s.note("the disk is fast")
}

// rest lets everything arrive and everything that is asked for be made.
func (s *sim) rest() {
	s.calm = true
	s.note("from here on nothing goes wrong")
	s.hasten()
	for _, m := range s.makings {
		s.finish(m)
	}
	s.makings = nil
	wait := time.Second
	for end := time.Now().Add(simRest); ; {
		for _, p := range s.publishers {
			s.publish(p)
		}
		s.quiet()
		if slices.ContainsFunc(s.publishers, func(p *simPublisher) bool { return p.batch != nil || len(p.queue) > 0 }) {
			continue
		}
		notices := s.inbox
		s.inbox = nil
		for _, n := range notices {
			if d := s.byURI[n.URI]; !s.things[d].gone {
				token := s.at
				token.Seq = n.seq
				s.finish(s.begin(d, token))
			}
		}
		if len(notices) > 0 {
			wait = time.Second
			continue
		}
		trouble := s.atRest()
		if trouble == "" {
			break
		}
		if time.Now().After(end) {
			s.failf("it does not come to rest: %s", trouble)
		}
		pass(wait)
		wait = min(wait*2, 5*time.Minute)
	}
	for range 3 {
		for _, r := range s.readers {
			s.connect(r)
		}
		pass(20 * time.Second) // the slow ones arrive, too
		s.quiet()
	}
	for x := range s.things {
		s.checkEdges(x)
	}
	s.checkFreeEdges()
	s.checkChannels()
	s.checkReaders(true)
}
