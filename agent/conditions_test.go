package agent

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/health"
)

// The defaults of the configuration are those of the package, which says where they
// come from; and each key changes one threshold.
func TestThresholds(t *testing.T) {
	parse := func(text string) health.Thresholds {
		c, err := config.Parse(strings.NewReader("cluster: home\nnode: n1\n"+text), "test")
		if err != nil {
			t.Fatal(err)
		}
		got := thresholds(c.Health)
		if err := got.Validate(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		return got
	}
	std := health.DefaultThresholds()
	if got := parse(""); got != std {
		t.Errorf("the defaults are %+v, those of health %+v", got, std)
	}
	for text, change := range map[string]func(*health.Thresholds){
		"disk_free_percent: 12":    func(t *health.Thresholds) { t.DiskFreeShare = 0.12 },
		"disk_free_mb: 100":        func(t *health.Thresholds) { t.DiskFreeBytes = 100 << 20 },
		"inodes_free_percent: 7":   func(t *health.Thresholds) { t.InodesFreeShare = 0.07 },
		"slow_write: 2s":           func(t *health.Thresholds) { t.SlowWriteSeconds = 2 },
		"drive_errors: 9":          func(t *health.Thresholds) { t.DriveErrors = 9 },
		"worn_percent: 70":         func(t *health.Thresholds) { t.WornPercent = 70 },
		"hot_celsius: 70":          func(t *health.Thresholds) { t.HotCelsius = 70 },
		"memory_free_percent: 10":  func(t *health.Thresholds) { t.MemoryFreeShare = 0.1 },
		"memory_stall_percent: 30": func(t *health.Thresholds) { t.MemoryStallPercent = 30 },
		"unsynced_for: 1h":         func(t *health.Thresholds) { t.UnsyncedFor = time.Hour },
		"clock_jump: 1m":           func(t *health.Thresholds) { t.JumpSeconds = 60 },
		"carrier_changes: 20":      func(t *health.Thresholds) { t.CarrierChanges = 20 },
		"link_error_percent: 4":    func(t *health.Thresholds) { t.LinkErrorShare = 0.04 },
		"weak_signal_dbm: -80":     func(t *health.Thresholds) { t.WeakDBm = -80 },
	} {
		want := std
		change(&want)
		if got := parse("health: {" + text + "}\n"); got != want {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

// All tags at their longest, and the digest of a host on which everything is wrong, are
// within what gossip carries, with room for another part's tag.
func TestTagsFit(t *testing.T) {
	const room = 64
	all := make([]health.Condition, 0, 32)
	for _, c := range health.Types() {
		all = append(all, health.Condition{Type: c, Status: health.Yes})
	}
	digest := health.Digest(all)
	if g, err := health.ParseDigest(digest); err != nil || len(g.Types) != len(all) {
		t.Errorf("the digest of everything says %v, %v", g, err)
	}
	tags := map[string]string{
		tagVersion: strings.Repeat("v", 64), tagPeerPort: "65535", tagCandidate: "1", tagVoter: "1", tagRole: "standby",
		tagTerm: "18446744073709551615", tagMachine: strings.Repeat("f", 16), tagAPI: "255.255.255.255:65535",
		tagHealth: strings.Repeat("x", health.MaxDigest), tagCatalog: strings.Repeat("x", 32), tagCloudy: "255.255.255.255:65535", tagTrust: "18446744073709551615", tagCopy: "fresh", "another": strings.Repeat("x", room),
	}
	if _, err := member.New(member.Config{Node: "n1", Keys: [][]byte{make([]byte, 16)}, Tags: tags, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Error(err)
	}
	a := &agent{cfg: &config.Config{Candidate: &config.Candidate{}, Voter: true}, monitor: health.New(health.Config{}), loop: &loop{}}
	a.buildCatalog()
	a.term.Store(1)
	for k := range a.tags() {
		if tags[k] == "" {
			t.Errorf("the tag %q is not reckoned with", k)
		}
	}
}
