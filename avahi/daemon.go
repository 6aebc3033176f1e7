package avahi

import (
	"context"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	// busRetry is the pause between attempts to reach D-Bus.
	busRetry = 2 * time.Second
	// offerRetry is when what avahi-daemon refused or did not answer is tried again.
	offerRetry = 30 * time.Second
)

// daemon works through avahi-daemon, and has a substitute work while there is none.
type daemon struct {
	b          *Board
	cfg        Config
	substitute func(ctx context.Context, why string) // nil = wait for avahi-daemon

	standIn worker // substitute, as long as it works
	finder  worker
	bus     *bus
	groups  *groups
	there   bool // avahi-daemon has its name on the bus
	running bool
	seen    string // the last trouble, so that it is logged once
}

func (d *daemon) run(ctx context.Context) {
	defer d.standIn.stop()
	for ctx.Err() == nil {
		err := d.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if err.Error() != d.seen {
			d.seen = err.Error()
			d.cfg.Log.Warn("avahi-daemon is out of reach", "err", err)
		}
		d.without(ctx, err.Error())
		pause(ctx, busRetry)
	}
}

// pause waits; false if ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// session is one life of a connection to D-Bus.
func (d *daemon) session(ctx context.Context) (err error) {
	if d.bus, err = dialBus(ctx, d.cfg); err != nil {
		return err
	}
	// Closing the connection withdraws everything; so does a crash.
	defer d.bus.close()
	defer d.finder.stop()
	d.there, d.running = false, false
	has, err := d.listen(ctx)
	if err != nil {
		return err
	}
	d.seen = ""
	again := stopped()
	defer again.Stop()
	if has {
		d.arrived(ctx, again)
	} else {
		d.without(ctx, notRunning)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.bus.lost():
			return errBusLost
		case <-d.bus.in.full:
			return errFlooded
		case s := <-d.bus.in.signals:
			d.signal(ctx, s, again)
		case <-d.b.wantedBy(d.running):
			d.publish(ctx, again)
		case <-again.C:
			if d.running {
				d.groups.forgive()
				d.publish(ctx, again)
			} else if d.there {
				d.ask(ctx, again)
			}
		}
	}
}

// listen for avahi-daemon coming, going and changing, and tell whether it is there.
func (d *daemon) listen(ctx context.Context) (has bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, m := range [][]dbus.MatchOption{
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName)},
		{dbus.WithMatchSender(busName), dbus.WithMatchInterface(ifServer), dbus.WithMatchMember("StateChanged")},
	} {
		if err := d.bus.conn.AddMatchSignalContext(ctx, m...); err != nil {
			return false, fmt.Errorf("listen on D-Bus: %w", err)
		}
	}
	if err := d.bus.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, busName).Store(&has); err != nil {
		return false, fmt.Errorf("ask D-Bus for avahi-daemon: %w", err)
	}
	return has, nil
}

const notRunning = "avahi-daemon does not run"

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// wantedBy is the signal of another wanted set, for who can do something about it.
func (b *Board) wantedBy(can bool) <-chan struct{} {
	if !can {
		return nil
	}
	return b.wanted
}

func (d *daemon) signal(ctx context.Context, s *dbus.Signal, again *time.Timer) {
	switch s.Name {
	case "org.freedesktop.DBus.NameOwnerChanged":
		var name, old, now string
		if dbus.Store(s.Body, &name, &old, &now) != nil || name != busName {
			return
		}
		if d.there {
			d.cfg.Log.Warn("avahi-daemon is gone")
			d.there, d.running = false, false
			d.finder.stop()
			// At once: others forget what a clean stop withdrew within a second, and a new
			// avahi-daemon needs that long to find its host name.
			d.without(ctx, notRunning)
		}
		if now != "" {
			d.arrived(ctx, again)
		}
	case ifServer + ".StateChanged":
		var state int32
		var msg string
		if d.there && dbus.Store(s.Body, &state, &msg) == nil {
			d.state(ctx, state, again)
		}
	case ifGroup + ".StateChanged":
		if d.running {
			d.worry(ctx, d.groups.changed(ctx, s), again)
		}
	}
}

// arrived begins with an avahi-daemon that knows nothing of us.
func (d *daemon) arrived(ctx context.Context, again *time.Timer) {
	d.there = true
	d.groups = newGroups(d.bus, d.b)
	d.ask(ctx, again)
}

func (d *daemon) ask(ctx context.Context, again *time.Timer) {
	var state int32
	if err := d.bus.call(ctx, "/", ifServer+".GetState").Store(&state); err != nil {
		d.worry(ctx, fmt.Errorf("ask avahi-daemon for its state: %w", err), again)
		return
	}
	d.state(ctx, state, again)
}

// state: avahi-daemon takes no services before it has a host name of its own, and
// wants them anew after it took another one.
func (d *daemon) state(ctx context.Context, state int32, again *time.Timer) {
	if state != serverRunning {
		if d.running {
			d.groups.invalidate()
		}
		d.running = false
		return
	}
	if !d.running {
		d.running = true
		// Two on one host that announce the same would be a collision.
		d.standIn.stop()
		d.b.begin("avahi", "avahi-daemon has not confirmed it yet")
		d.finder.start(ctx, func(ctx context.Context) { lookThroughAvahi(ctx, d.cfg, d.b) })
	}
	d.publish(ctx, again)
}

// without avahi-daemon the substitute works, if there is one.
func (d *daemon) without(ctx context.Context, why string) {
	if d.substitute == nil {
		d.b.begin("", why)
		return
	}
	d.standIn.start(ctx, func(ctx context.Context) { d.substitute(ctx, why) })
}

func (d *daemon) publish(ctx context.Context, again *time.Timer) {
	d.worry(ctx, d.groups.reconcile(ctx), again)
}

// worry about what did not work: later again.
func (d *daemon) worry(ctx context.Context, err error, again *time.Timer) {
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		d.cfg.Log.Warn("avahi-daemon does not do what it is asked", "err", err)
		again.Reset(callTimeout)
	} else if d.groups.unsettled() {
		again.Reset(offerRetry)
	}
}
