package logtail

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var seeds = flag.Uint64("seeds", 30, "random schedules that are tried")

// TestEveryLineOnceThroughRotationsAndKills writes, rotates and kills at random, each step of the tailer being a place
// to die: within any write to the journal, which may reach the disk in part, and between any two sends. Kafka gets
// every line, and under one id each.
func TestEveryLineOnceThroughRotationsAndKills(t *testing.T) {
	kills, again := 0, 0
	for seed := range *seeds {
		k, a := crashRun(t, seed)
		kills, again = kills+k, again+a
	}
	if kills < int(*seeds) || again < int(*seeds) {
		t.Errorf("only %d kills and %d events that came again: the test does not bite", kills, again)
	}
}

func crashRun(t *testing.T, seed uint64) (kills, again int) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	r := newRig(t, func(c *Config) {
		c.Idle, c.MaxUnacked, c.MaxEvent = time.Hour, 4<<10, 256
		if seed%2 == 1 {
			c.MaxUnacked = 64 << 10
		}
		if seed%3 == 0 {
			c.MaxOpen = 2
		}
		if seed%4 == 0 { // renamed files leave the glob
			c.Inputs[0].Paths[0] = strings.TrimSuffix(c.Inputs[0].Paths[0], "*")
		}
	})
	r.torn = rnd.IntN
	r.lost = func() bool { return rnd.IntN(2) == 0 }
	r.begin()
	names := []string{"a.log", "b.log"}
	half := map[string]string{}
	lines, rotations := 0, map[string]int{}
	for range 120 {
		name := names[rnd.IntN(len(names))]
		switch rnd.IntN(12) {
		case 0, 1, 2, 3:
			text := half[name]
			for range rnd.IntN(30) {
				text += fmt.Sprintf("%s line %d, made long enough to be found in a copy ü€\n", name, lines)
				lines++
			}
			cut := len(text)
			if len(text) > 0 && rnd.IntN(2) == 0 {
				cut = rnd.IntN(len(text)) // anywhere, within a character too
			}
			r.write(name, text[:cut])
			half[name] = text[cut:]
		case 4:
			if seed%4 == 0 {
				kills += r.seen()
			}
			if rotations[name]%2 == 0 || seed%4 == 0 {
				r.write(name, half[name])
				half[name] = ""
				rotateByRename(r, name, rotations[name])
			} else {
				r.write(name, half[name])
				half[name] = ""
				r.copyTruncate(name, fmt.Sprintf("%s.%d", name, rotations[name]))
			}
			rotations[name]++
		case 5:
			r.crashIn = rnd.IntN(40) + 1
		case 6, 7:
			rnd.Shuffle(len(r.waiting), func(i, j int) { r.waiting[i], r.waiting[j] = r.waiting[j], r.waiting[i] })
			r.answer(rnd.IntN(20))
		default:
			r.tail.step()
		}
		r.now = r.now.Add(time.Duration(rnd.IntN(1000)) * time.Millisecond)
		if r.crashed {
			kills++
			r.kill()
			if rnd.IntN(3) == 0 {
				r.crashIn = rnd.IntN(10) + 1 // it dies while it starts
			}
			r.begin()
		}
	}
	for _, name := range names {
		r.write(name, half[name])
	}
	if r.crashIn >= 0 {
		r.kill()
		r.begin()
	}
	r.settle(time.Minute)

	ids := map[string]int{}
	for _, e := range r.events {
		ids[e.Body]++
	}
	for body, n := range ids {
		if n != 1 {
			t.Fatalf("seed %d: %q arrived under %d ids", seed, body, n)
		}
	}
	if len(ids) != lines {
		t.Fatalf("seed %d: %d of %d lines arrived", seed, len(ids), lines)
	}
	return kills, r.again
}

// seen lets the tailer find the files that are there: one that is made and renamed out of the glob between two looks
// is nobody's.
func (r *rig) seen() (kills int) {
	for {
		r.tail.step()
		if !r.crashed {
			return kills
		}
		kills++
		r.kill()
		r.begin()
	}
}

func rotateByRename(r *rig, name string, n int) {
	r.write(name, "") // it may not exist yet
	r.rename(name, fmt.Sprintf("%s.%d", name, n))
}
