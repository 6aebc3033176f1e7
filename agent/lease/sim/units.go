package sim

import (
	"errors"
	"time"

	"relevo.dev/relevo/agent/lease"
)

var errSim = errors.New("simulated failure")

// unitsBoot tells one boot of the host from the next.
func (n *node) unitsBoot() int { return n.unitsLife >> 20 }

// onHost does f outside the agent: PID 1, units. A frozen host does it when thawed.
func (n *node) onHost(f func()) {
	if !n.powered {
		return
	}
	if n.frozen {
		// At most this much later than the thaw; nothing is to be seen before.
		const late = 5 * time.Millisecond
		boot, frozen := n.unitsBoot(), n.frozenTo-n.w.now
		n.w.at(late*max(1, (frozen+late-1)/late), func() {
			if n.unitsBoot() == boot {
				n.onHost(f)
			}
		})
		return
	}
	f()
}

func (n *node) setUnits(u unitState) {
	if n.units != u {
		n.w.trace("%s units %v", n.name, u)
		n.units = u
		n.unitsLife++
		n.served = n.served || u == up
	}
	n.w.check()
}

// unitsAfter does f unless the units changed meanwhile.
func (n *node) unitsAfter(d time.Duration, f func()) {
	life := n.unitsLife
	n.w.at(d, func() {
		n.onHost(func() {
			if n.unitsLife == life {
				f()
			}
		})
	})
}

// held is `relevo lease held`: what ExecCondition= asks. Who starts when the fence has begun
// to stop what runs may come after its last blow.
func (n *node) held() bool {
	end := n.note.Deadline
	if !n.w.cfg.NoStartMargin {
		end -= n.w.tm.StopBefore()
	}
	return n.w.cfg.NoExecCondition || n.note.Term != 0 && end > n.clock()
}

// startUnits: by the agent, by Restart=, by a person or at boot.
func (n *node) startUnits() {
	if n.units != down && n.units != stopping || !n.held() {
		return
	}
	n.setUnits(starting)
	n.unitsAfter(n.w.between(50*time.Millisecond, 3*time.Second), func() {
		n.setUnits(up)
		if n.w.chance(0.01) && !n.w.quiet { // crashes some day; Restart= brings it back
			n.unitsAfter(n.w.between(0, 20*time.Second), func() {
				n.setUnits(down)
				n.unitsAfter(time.Second, n.startUnits)
			})
		}
	})
}

func (n *node) stopUnits() {
	if n.units == down || n.units == stopping {
		return
	}
	n.setUnits(stopping)
	if n.stubborn {
		return
	}
	n.unitsAfter(n.w.between(10*time.Millisecond, 8*time.Second), func() { n.setUnits(down) })
}

func (n *node) killUnits() {
	if n.units != down {
		n.unitsAfter(n.w.between(time.Millisecond, 150*time.Millisecond), func() { n.setUnits(down) })
	}
}

// fence is `relevo fence`: the lease decides, not the agent.
func (n *node) fence() {
	if n.note.Deadline == 0 || n.note.Deadline == lease.Forever {
		return
	}
	n.timers++
	n.timer = n.timers
	mine := n.timer
	stop := n.note.Deadline - n.w.tm.StopBefore() - n.clock()
	kill := n.note.Deadline - n.w.tm.KillBefore() - n.clock()
	n.w.trace("%s fence: stops the units in %v unless the agent renews", n.name, max(0, stop))
	n.w.at(n.real(stop), func() {
		n.onHost(func() {
			if n.timer == mine {
				n.stopUnits()
			}
		})
	})
	n.killTimer(kill, mine)
}

// guard is PID 1's timer that the agent arms when it begins to stop: whatever
// becomes of the agent, what still runs is killed in time.
func (n *node) guard() {
	if n.note.Deadline == lease.Forever || n.w.cfg.NoStopPost {
		return
	}
	n.timers++
	n.timer = n.timers
	n.killTimer(n.note.Deadline-n.w.tm.KillBefore()-n.clock(), n.timer)
}

func (n *node) killTimer(kill time.Duration, mine int) {
	n.w.at(n.real(kill), func() {
		n.onHost(func() {
			if n.timer == mine {
				n.killUnits()
			}
		})
	})
}

// powerCut: everything but the disk is gone.
func (n *node) powerCut() {
	n.w.trace("%s loses power", n.name)
	n.powered, n.up, n.frozen, n.stopped = false, false, false, false
	n.life++
	n.job++
	n.units = down
	n.unitsLife = (n.unitsBoot() + 1) << 20
	n.note, n.timer = lease.Lease{}, 0
	n.w.check()
}

func (n *node) powerOn() {
	if n.powered {
		return
	}
	n.w.trace("%s boots", n.name)
	n.powered = true
	n.skew = 0
	n.skew = n.w.between(time.Millisecond, time.Second) - n.clock() // CLOCK_BOOTTIME starts again
	n.startUnits()                                                  // enabled at boot: refused without a lease
	n.w.at(n.w.between(0, 2*time.Second), n.startAgent)
}

// freeze stops everything on the host; the hardware watchdog resets it after 15 s.
func (n *node) freeze(d time.Duration) {
	if !n.powered || n.frozen {
		return
	}
	n.w.trace("%s freezes for %v", n.name, d)
	n.frozen, n.frozenTo = true, n.w.now+min(d, 15*time.Second)
	n.w.check()
	boot := n.unitsBoot()
	if d > 15*time.Second {
		n.w.at(15*time.Second, func() {
			if n.frozen && n.unitsBoot() == boot {
				n.powerCut()
				n.w.at(n.w.between(time.Second, 10*time.Second), n.powerOn)
			}
		})
		return
	}
	n.w.at(d, func() {
		if n.frozen && n.unitsBoot() == boot {
			n.w.trace("%s thaws", n.name)
			n.frozen, n.thawed = false, n.w.now
			if n.holder != nil && n.up && !n.stopped {
				// The loop's timer is the first thing that is due.
				n.run(n.life, &event{to: n, do: func() { n.hold(lease.Tick{}) }})
			}
			n.resume()
			n.w.check()
		}
	})
}
