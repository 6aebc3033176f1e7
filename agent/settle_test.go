package agent

import (
	"testing"
	"time"

	"relevo.dev/relevo/agent/kube"
	"relevo.dev/relevo/agent/takeover"
)

func TestClearable(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	units := []string{"kine.service", "kube-apiserver.service", "kube-scheduler.service"}
	names := map[string]string{"n1": "pi-one.lan", "n0": "n0"} // earlier holders
	lost := takeover.Succession{Term: 3, Previous: "n1", Holders: []string{"n0", "n1"}}
	planned, off := lost, lost
	planned.Planned, off.Fenced = true, true
	fresh, old := now.Add(-8*time.Second), now.Add(-16*time.Second)
	for _, tt := range []struct {
		what, name, holder string
		renewed            time.Time
		s                  takeover.Succession
		want               string
	}{
		{"the scheduler of the lost master", "kube-scheduler", "n1_a-b", fresh, lost, "its control plane is stopped"},
		{"the same, after a switchover", "kube-scheduler", "pi-one.lan_a-b", fresh, planned, "its control plane is stopped"},
		{"of a master before that", "kube-scheduler", "n0_a-b", fresh, lost, "its control plane is stopped"},
		{"of this host", "kube-scheduler", "n2_a-b", old, lost, ""},
		{"of a host that never held a term", "kube-scheduler", "n7_a-b", old, lost, ""},
		{"of a host whose name begins alike", "kube-scheduler", "n11_a-b", old, lost, ""},
		{"a controller that is no unit, on a host that lives", "coredns-scaler", "n1_a-b", old, planned, ""},
		{"the same, on a lost host", "coredns-scaler", "n1_a-b", fresh, lost, ""},
		{"the same, expired", "coredns-scaler", "PI-ONE_a-b", old, lost, "its host is lost, and it has expired"},
		{"the same, of an earlier master that may live", "coredns-scaler", "n0_a-b", old, lost, ""},
		{"the same, and the host is off", "coredns-scaler", "n1_a-b", fresh, off, "its host is off"},
		{"a holder without a host", "coredns-scaler", "_", old, off, ""},
		{"a clock in the past expires nothing", "coredns-scaler", "n1_a-b", now.AddDate(56, 0, 0), lost, ""},
	} {
		l := kube.Lease{Name: tt.name, Holder: tt.holder, Renewed: tt.renewed, Lasts: 15 * time.Second}
		if got := clearable(l, tt.s, names, units, now); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.want)
		}
	}
}
