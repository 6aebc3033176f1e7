package avahi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

// fakeBus is a D-Bus with nobody on it but clients and a handler: everything within
// this process, so that tests can hold time still.
type fakeBus struct {
	t      *testing.T
	handle func(c *busClient, m call) // owns the reply

	mu      sync.Mutex
	refuse  error // of new connections
	clients map[*busClient]bool
}

// call is a method call that came in.
type call struct {
	serial                  uint32
	dest, path, ifc, member string
	body                    []any
}

type busClient struct {
	bus  *fakeBus
	name string
	conn net.Conn
	out  chan *dbus.Message
	done chan struct{}
}

// dial fits Config.dial.
func (f *fakeBus) dial(ctx context.Context, in *inbox) (*dbus.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return nil, f.refuse
	}
	ours, theirs := net.Pipe()
	c := &busClient{bus: f, name: ":1." + strconv.Itoa(len(f.clients)+1), conn: ours, out: make(chan *dbus.Message, 10000), done: make(chan struct{})}
	if f.clients == nil {
		f.clients = map[*busClient]bool{}
	}
	f.clients[c] = true
	go c.serve()
	conn, err := dbus.NewConn(theirs, dbus.WithContext(ctx), dbus.WithSignalHandler(in))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(conn.Auth([]dbus.Auth{dbus.AuthAnonymous()}), conn.Hello()); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (c *busClient) serve() {
	defer close(c.done)
	defer c.conn.Close()
	r := bufio.NewReader(c.conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		answer := ""
		switch line = strings.Trim(line, "\x00\r\n"); {
		case line == "AUTH":
			answer = "REJECTED ANONYMOUS\r\n"
		case strings.HasPrefix(line, "AUTH "):
			answer = "OK 0123456789abcdef0123456789abcdef\r\n"
		}
		if line == "BEGIN" {
			break
		}
		if _, err := c.conn.Write([]byte(answer)); err != nil {
			return
		}
	}
	go func() {
		for {
			select {
			case m := <-c.out:
				var b bytes.Buffer
				if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
					c.bus.t.Error("the test's own message:", err)
				}
				c.conn.Write(b.Bytes())
			case <-c.done:
				return
			}
		}
	}()
	for {
		m, err := dbus.DecodeMessage(r)
		if err != nil {
			c.bus.mu.Lock()
			delete(c.bus.clients, c)
			c.bus.mu.Unlock()
			c.bus.handle(c, call{member: "gone"})
			return
		}
		text := func(f dbus.HeaderField) string {
			switch v := m.Headers[f].Value().(type) {
			case string:
				return v
			case dbus.ObjectPath:
				return string(v)
			}
			return ""
		}
		in := call{m.Serial(), text(dbus.FieldDestination), text(dbus.FieldPath), text(dbus.FieldInterface), text(dbus.FieldMember), m.Body}
		if in.member == "Hello" {
			c.reply(in, c.name)
			continue
		}
		c.bus.handle(c, in)
	}
}

func (c *busClient) send(typ dbus.Type, headers map[dbus.HeaderField]any, body []any) {
	m := &dbus.Message{Type: typ, Flags: dbus.FlagNoReplyExpected, Headers: map[dbus.HeaderField]dbus.Variant{}, Body: body}
	for k, v := range headers {
		m.Headers[k] = dbus.MakeVariant(v)
	}
	if len(body) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
	}
	c.out <- m
}

func (c *busClient) reply(to call, body ...any) {
	c.send(dbus.TypeMethodReply, map[dbus.HeaderField]any{dbus.FieldReplySerial: to.serial}, body)
}

func (c *busClient) fail(to call, name string) {
	c.send(dbus.TypeError, map[dbus.HeaderField]any{dbus.FieldReplySerial: to.serial, dbus.FieldErrorName: name}, []any{"the test says so"})
}

func (c *busClient) signal(path dbus.ObjectPath, name string, body ...any) {
	i := strings.LastIndex(name, ".")
	sender := busName
	if strings.HasPrefix(name, "org.freedesktop.DBus") {
		sender = "org.freedesktop.DBus"
	}
	c.send(dbus.TypeSignal, map[dbus.HeaderField]any{dbus.FieldPath: path, dbus.FieldInterface: name[:i], dbus.FieldMember: name[i+1:], dbus.FieldSender: sender}, body)
}

// everybody is who is connected.
func (f *fakeBus) everybody() []*busClient {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*busClient
	for c := range f.clients {
		out = append(out, c)
	}
	return out
}

// down breaks every connection and takes no new ones; up takes them again.
func (f *fakeBus) down() {
	f.mu.Lock()
	f.refuse = errors.New("no such file or directory")
	f.mu.Unlock()
	for _, c := range f.everybody() {
		c.conn.Close()
	}
}

func (f *fakeBus) up() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = nil
}
