package avahi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names on the bus, and Avahi's numbers (avahi-common/defs.h).
const (
	busName       = "org.freedesktop.Avahi"
	ifServer      = busName + ".Server"
	ifGroup       = busName + ".EntryGroup"
	ifBrowser     = busName + ".ServiceBrowser"
	ifTypeBrowser = busName + ".ServiceTypeBrowser"
	ifResolver    = busName + ".ServiceResolver"

	serverRunning    = 2
	groupRegistering = 1
	groupEstablished = 2
	groupCollision   = 3
	groupFailure     = 4
	anyInterface     = int32(-1)
	anyProtocol      = int32(-1)
	protoIPv4        = int32(0)
	protoIPv6        = int32(1)
	noFlags          = uint32(0)
	flagNoReverse    = uint32(16)     // AVAHI_PUBLISH_NO_REVERSE: an address may have a name already
	flagsLocal       = uint32(8 | 16) // AVAHI_LOOKUP_RESULT_LOCAL, _OUR_OWN
)

const (
	callTimeout = 5 * time.Second // of one D-Bus call; avahi-daemon answers in milliseconds
	inboxSize   = 2048            // signals
)

// bus is a connection to D-Bus. It belongs to one goroutine, which also takes the
// signals: so a signal of an object is always seen after the reply that made it.
type bus struct {
	conn *dbus.Conn
	in   *inbox
	stop context.CancelFunc
}

// inbox takes signals in their order, as many as there is room for.
type inbox struct {
	signals chan *dbus.Signal
	full    chan struct{} // closed when one was lost
	once    sync.Once
}

func newInbox() *inbox {
	return &inbox{signals: make(chan *dbus.Signal, inboxSize), full: make(chan struct{})}
}

// DeliverSignal is called by the connection's reader, which must not wait.
func (in *inbox) DeliverSignal(_, _ string, s *dbus.Signal) {
	select {
	case in.signals <- s:
	default:
		in.once.Do(func() { close(in.full) })
	}
}

// dialBus connects to D-Bus; ctx bounds the life of the connection.
func dialBus(ctx context.Context, cfg Config) (*bus, error) {
	ctx, stop := context.WithCancel(ctx)
	// A bus that takes connections and says nothing must not hold us up.
	t := time.AfterFunc(callTimeout, stop)
	in := newInbox()
	dial := cfg.dial
	if dial == nil {
		dial = func(ctx context.Context, in *inbox) (*dbus.Conn, error) {
			opts := []dbus.ConnOption{dbus.WithContext(ctx), dbus.WithSignalHandler(in)}
			if cfg.BusAddress == "" {
				return dbus.ConnectSystemBus(opts...)
			}
			return dbus.Connect(cfg.BusAddress, opts...)
		}
	}
	conn, err := dial(ctx, in)
	if err == nil && !t.Stop() {
		conn.Close()
		err = fmt.Errorf("no answer within %v", callTimeout)
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("connect to D-Bus: %w", err)
	}
	return &bus{conn: conn, in: in, stop: stop}, nil
}

func (k *bus) close() {
	k.conn.Close()
	k.stop()
}

// lost is closed when the connection broke.
func (k *bus) lost() <-chan struct{} { return k.conn.Context().Done() }

var (
	errBusLost = errors.New("D-Bus closed the connection")
	errFlooded = errors.New("more signals came over D-Bus than could be handled")
)

// call asks avahi-daemon; it is never started only because we ask.
func (k *bus) call(ctx context.Context, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return k.conn.Object(busName, path).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
}

// make asks avahi-daemon for a new object.
func (k *bus) make(ctx context.Context, method string, args ...any) (path dbus.ObjectPath, err error) {
	err = k.call(ctx, "/", ifServer+"."+method, args...).Store(&path)
	return path, err
}

// avahiSays is avahi-daemon's own word for what went wrong, such as CollisionError;
// "" where it is not avahi-daemon that refused: then the next call fails as well.
func avahiSays(err error) string {
	if de, ok := errors.AsType[dbus.Error](err); ok {
		if word, ok := strings.CutPrefix(de.Name, busName+"."); ok {
			return word
		}
	}
	return ""
}
