package kube

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestLedger(t *testing.T) {
	var l ledger
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	full := func(status string) Condition {
		return Condition{Type: "DiskFull", Status: status, Reason: "Disk" + status, Message: "m " + status, Since: now}
	}
	step := func(what string, after time.Duration, want string, cs ...Condition) {
		t.Helper()
		now = now.Add(after)
		set, gone, events := l.next(cs, now)
		var b []string
		for _, c := range set {
			b = append(b, fmt.Sprintf("%s=%s since %s", c.Type, c.Status, c.LastChange.Format("15:04")))
		}
		for _, g := range gone {
			b = append(b, "-"+g)
		}
		for _, e := range events {
			b = append(b, fmt.Sprintf("%s(%v)", e.Reason, e.Warning))
		}
		if got := strings.Join(b, " "); got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
		l.wrote(set, gone, now)
	}
	// The Node has conditions of the kubelet, of a node-problem-detector, and one of an
	// older relevo.
	l.learn([]NodeCondition{{Type: "Ready", Status: "True"}, {Type: "ReadonlyFilesystem", Status: "False"}, {Type: "RelevoGone", Status: "False"}})
	step("begin", 0, "RelevoDiskFull=False since 12:00 -RelevoGone", full("False"), Condition{Type: "UnderVoltage", Status: "Unknown"})
	step("nothing new", time.Minute, "", full("False"))
	step("it is full", time.Minute, "RelevoDiskFull=True since 12:02 DiskTrue(true)", Condition{Type: "DiskFull", Status: "True", Reason: "DiskTrue", Since: now.Add(time.Minute)})
	step("still full", time.Minute, "", full("True"))
	step("heartbeat", heartbeat, "RelevoDiskFull=True since 12:02", full("True"))
	step("not known any more", time.Minute, "RelevoDiskFull=Unknown since 12:18", full("Unknown"))
	step("known, and over", time.Minute, "RelevoDiskFull=False since 12:19", full("False"))
	step("full again", time.Minute, "RelevoDiskFull=True since 12:20 DiskTrue(true)", full("True"))
	step("over", time.Minute, "RelevoDiskFull=False since 12:21 NoDiskFull(false)", full("False"))
	// The agent starts again: what the Node says already is no news.
	var has []NodeCondition
	for _, c := range l.written {
		has = append(has, c)
	}
	l = ledger{}
	l.learn(has)
	step("after a restart", time.Minute, "", full("False"))
	step("the clock was set back", -24*time.Hour, "RelevoDiskFull=False since 12:21", full("False"))
}

func TestReasons(t *testing.T) {
	if got := word("has a space/and-more"); got != "hasaspaceandmore" {
		t.Error(got)
	}
	if got := clip(strings.Repeat("é", 10), 5); got != "éé" {
		t.Errorf("%q", got)
	}
}
