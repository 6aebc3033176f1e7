package main

import (
	"os"
	"strings"
	"testing"
)

func TestOrders(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root may give orders")
	}
	socket := serve(t, &fake{status: okStatus()})
	env := map[string]string{"RELEVO_SOCKET": socket, "SUDO_USER": "ann"}
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"pause --why switch", 0, "pause to= why=switch force=false by=ann"},
		{"resume --force", 0, "resume to= why= force=true by=ann"},
		{"step-down --to n2 --wait 0", 0, "step-down to=n2 why= force=false by=ann"},
		{"switchover --to n2 --wait 0 --why test", 0, "switchover to=n2 why=test force=false by=ann"},
		{"switchover --why refuse", 1, "nobody is ready to take over"},
		{"switchover --to n2 --dry-run", 0, "A switchover from n1 to n2 would be done."},
		{"switchover --to n3 --dry-run", 3, "would be refused"},
		{"switchover --to n3 --dry-run -o json", 3, `"result": "wrong"`},
		{"switchover --force", 2, "unknown flag"},
		{"step-down --why refuse", 1, "nobody is ready to take over"},
		{"failover --to n3 --force", 0, "n1 is the master in term 3"},
		{"acknowledge", 0, "acknowledge to= why= force=false by=ann"},
		{"rotate ca", 0, "rotate to=ca why= force=false by=ann"},
		{"rotate ca --cancel", 0, "rotate-cancel to=ca why= force=false by=ann"},
		{"rotate ca --cancel --finish", 1, "not both"},
		{"rotate ca --force", 1, "for --finish only"},
		{"remove n9", 0, "remove to=n9"},
		{"remove", 2, "accepts 1 arg"},
		{"pause n1", 2, "unknown command"},
		{"replica verify n2", 0, "n2: equal\n  by ann\n"},
		{"replica verify --compare-only", 3, "n2: equal"},
		{"replica verify n2 -o json", 0, `"equal": true`},
		{"rehearse n2", 0, "n2: ready in 14 s"},
		{"rehearse n3", 3, "ready"},
		{"replica", 0, "Compare a standby's copy"},
		{"explain --term 99", 1, "term 99 is not in the history"},
		{"explain", 0, "n2 would be promoted in 4.2s"},
	} {
		code, out, errs := relevo(t, env, strings.Fields(tc.args)...)
		if code != tc.code || !strings.Contains(out+errs, tc.want) {
			t.Errorf("relevo %s: exit %d\n%s%s", tc.args, code, out, errs)
		}
	}
	_, out, _ := relevo(t, env, "explain")
	golden(t, "explain", out)
	_, out, _ = relevo(t, env, "switchover", "--to", "n3", "--dry-run")
	golden(t, "switchover", out)
}
