package takeover

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// tidy is Kubernetes as a master finds it.
type tidy struct {
	*host
	hang bool // it does not answer
}

func (k tidy) ClearLeases(ctx context.Context, s Succession) (string, error) {
	if k.hang {
		<-ctx.Done()
		return "", ctx.Err()
	}
	return "cleared", k.do("leases of " + s.Previous)
}

func (k tidy) MarkLost(_ context.Context, s Succession) (string, error) {
	return "", k.do("node of " + s.Previous)
}

// TestSettle: what follows a promotion is done once in a term, by whichever process.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "journal")
		settle := func(h *host, term uint64) []StepRecord {
			tk := at(t, path, h)
			tk.Cluster = tidy{host: h}
			if _, err := tk.Promote(t.Context(), term, true); err != nil {
				t.Fatal(err)
			}
			h.did = nil
			return tk.Settle(t.Context(), Succession{Term: term, Previous: "n1"})
		}
		h := &host{fail: "announce"}
		steps := settle(h, 1)
		if h.done() != "leases of n1, node of n1" || len(steps) != 3 || steps[0].Did != "cleared" || steps[1].Err == "" || steps[2].Err != "" {
			t.Errorf("%s: %+v", h.done(), steps)
		}
		// What failed is done by the next process of this term, the rest is not.
		h = &host{}
		if settle(h, 1); h.done() != "announce" {
			t.Error(h.done())
		}
		if settle(h, 1); h.done() != "" {
			t.Error(h.done())
		}
		if settle(h, 2); h.done() != "leases of n1, announce, node of n1" {
			t.Error(h.done())
		}
	})
}

// TestSettleHangs: an API that does not answer holds nothing up for long, and a demotion
// cuts it off.
func TestSettleHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{}
		tk := at(t, filepath.Join(t.TempDir(), "journal"), h)
		tk.Cluster = tidy{h, true}
		if _, err := tk.Promote(t.Context(), 1, true); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		steps := tk.Settle(t.Context(), Succession{Term: 1})
		if d := time.Since(begin); d > time.Minute {
			t.Errorf("it took %v of fake time", d)
		}
		if len(steps) != 3 || steps[0].Err == "" || !strings.HasSuffix(h.done(), "announce, node of ") {
			t.Errorf("%s: %+v", h.done(), steps)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		h.did = nil
		if tk.Settle(ctx, Succession{Term: 1}); slices.Contains(h.did, "node of ") {
			t.Errorf("it went on after the demotion: %v", h.did)
		}
		if steps := tk.Settle(t.Context(), Succession{Term: 2}); steps != nil {
			t.Errorf("a term that did not begin here: %+v", steps)
		}
	})
}
