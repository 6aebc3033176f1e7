//go:build e2e || bench

package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	"relevo.dev/relevo/agent/replica/kine/kinetest"
	"relevo.dev/relevo/test/hosts"
)

// writers are several clients that write at once; one alone waits for each answer.
type writers []*writer

func (c *cluster) startWriters(from *node, prefix string) writers {
	var ws writers
	for i := range 4 {
		ws = append(ws, c.startWriter(from, fmt.Sprintf("%s-%d", prefix, i)))
	}
	return ws
}

func (ws writers) count() (n int) {
	for _, w := range ws {
		n += w.count()
	}
	return n
}

func (ws writers) end() {
	for _, w := range ws {
		w.end()
	}
}

// check ends them and returns what they miss.
func (ws writers) check(c *cluster, from *node) (missing []write) {
	c.t.Helper()
	ws.end()
	return ws.compare(c, c.there(from))
}

// compare returns what they miss, and says how it went.
func (ws writers) compare(c *cluster, there fresh) (missing []write) {
	c.t.Helper()
	failed, gap := 0, time.Duration(0)
	for _, w := range ws {
		missing = append(missing, w.compare(c, there)...)
		w.mu.Lock()
		failed, gap = failed+w.errs, max(gap, w.gap)
		w.mu.Unlock()
	}
	n := ws.count()
	c.t.Logf("%d writes acknowledged, %d found again, %d lost; %d attempts failed; longest time without a write %.3f s; resourceVersion now %d",
		n, n-len(missing), len(missing), failed, gap.Seconds(), there.at)
	return missing
}

// things are objects of a resource that no API server knows: clients write them to kine.
const (
	thingsResource = "things.test.relevo.dev"
	thingsKey      = "/registry/test.relevo.dev/things/"
)

// kineWriters write to kine itself, on the LAN (options.kine), through the virtual IP.
type kineWriters struct {
	writers
	client *kinetest.Client
	prefix string
}

// kinePace and kineClients make 400 writes a second, of 1 KiB.
const (
	kineClients = 8
	kinePace    = 20 * time.Millisecond
)

func (c *cluster) startKineWriters(from *node, prefix string) *kineWriters {
	return c.startKineWritersEvery(from, prefix, kinePace)
}

func (c *cluster) startKineWritersEvery(from *node, prefix string, pace time.Duration) *kineWriters {
	k := &kineWriters{client: kinetest.NewClient(fmt.Sprintf("%s:%d", hosts.VIP, hosts.KinePort), from.DialContext), prefix: thingsKey + prefix + "/"}
	c.t.Cleanup(k.client.Close)
	value := strings.Repeat("x", 1024)
	for i := range kineClients {
		k.writers = append(k.writers, c.startCreating(fmt.Sprintf("%s-k%d", prefix, i), pace, func(ctx context.Context, name string) (uint64, error) {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			rev, err := k.client.Put(ctx, k.prefix+name, value, 0)
			return uint64(rev), err
		}))
	}
	return k
}

// check ends them and returns what they miss in kine.
func (k *kineWriters) check(c *cluster) (missing []write) {
	c.t.Helper()
	k.end()
	ctx := within(c.t, time.Minute)
	revs, at, err := k.client.List(ctx, k.prefix)
	ok(c.t, err)
	there := fresh{map[string]uint64{}, uint64(at)}
	for key, rev := range revs {
		there.names[strings.TrimPrefix(key, k.prefix)] = uint64(rev)
	}
	return k.compare(c, there)
}

// powerOff cuts the power of a host, and returns the moment at which the last answer may
// have come from it: its cable goes first.
func (c *cluster) powerOff(m *node) (cut time.Time) {
	c.t.Helper()
	ok(c.t, m.LinkDown(within(c.t, 30*time.Second)))
	cut = time.Now()
	ok(c.t, m.PowerCut(within(c.t, 30*time.Second)))
	return cut
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
