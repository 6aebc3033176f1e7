package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
)

func removedStatus() api.Status {
	x := api.Removed{By: "ann@n1", Why: "sold", At: now.Add(-time.Hour)}
	return api.Status{Cluster: "home", Node: "n3", Role: api.RoleMember, Removed: &x, Problems: []api.Problem{{Severity: api.Critical,
		What: "this host was removed from the cluster home by ann@n1 on 2026-11-23 02:00 UTC (sold)", Do: "to join again: `relevo token create` on a member, and `sudo relevo join TOKEN` here"}}}
}

// TestRemovedSaysSo: on a host that was removed every question is answered with that, and with
// what to do.
func TestRemovedSaysSo(t *testing.T) {
	p := removedStatus().Problems[0]
	socket := serve(t, &fake{status: removedStatus(), err: errors.New(p.What + "; " + p.Do)})
	for _, args := range []string{"top", "top --once", "history", "explain", "health", "members", "rotate status"} {
		code, out, errs := relevo(t, nil, append([]string{"--socket", socket}, strings.Fields(args)...)...)
		if code != exitError || out != "" || !strings.Contains(errs, p.What) || !strings.Contains(errs, p.Do) {
			t.Errorf("%s: exit %d\n%s%s", args, code, out, errs)
		}
	}
	f := finding{"membership", resultWrong, p.What, p.Do}
	socket = serve(t, &fake{status: removedStatus(), doctor: api.Doctor{Findings: []api.Finding{api.Finding(f)}}})
	found, _ := askOthers(t.Context(), &app{socket: socket, env: func(string) string { return "" }})
	if len(found) != 1 || found[0] != f {
		t.Errorf("the doctor: %+v", found)
	}
}

// TestRotationBegun: as long as a change of the CA can be taken back it is said how.
func TestRotationBegun(t *testing.T) {
	p := &page{now: now}
	showRotation(p, api.Rotation{CA: api.CARotation{RotationStep: api.RotationStep{Stage: 1, Stages: 3, Behind: []string{"n3"}}, Missing: []string{"n1", "n3"}}})
	golden(t, "rotation-begun", p.b.String())
}
