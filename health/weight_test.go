package health

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// The table, the rules, the advice and the digest know the same conditions.
func TestTable(t *testing.T) {
	codes := map[string]bool{}
	for i, k := range table {
		if rules[i].typ != k.typ {
			t.Errorf("rule %d is of %s, the table's of %s", i, rules[i].typ, k.typ)
		}
		if !slices.ContainsFunc(collectors, func(c collector) bool { return c.what == rules[i].source }) {
			t.Errorf("%s: there is no collector %q", k.typ, rules[i].source)
		}
		if len(k.code) != 2 || codes[k.code] {
			t.Errorf("%s has the code %q", k.typ, k.code)
		}
		codes[k.code] = true
		if advice(k.typ, "") == "" {
			t.Errorf("%s has no advice", k.typ)
		}
		// A master that leaves for what does not keep a standby away would come back.
		if k.master >= 0 && (k.standby < 0 || k.standby > k.master) {
			t.Errorf("%s: a master leaves after %v, a standby is ready until %v", k.typ, k.master, k.standby)
		}
	}
	if len(rules) != len(table) || len(Types()) != len(table) {
		t.Errorf("%d rules, %d in the table, %d types", len(rules), len(table), len(Types()))
	}
	if n := len(digestVersion) + 2*len(table); n > MaxDigest {
		t.Errorf("a digest of all has %d bytes, %d are allowed", n, MaxDigest)
	}
	if w := WeightOf("Strange"); w.MasterAfter >= 0 || w.StandbyAfter >= 0 {
		t.Errorf("what is not known weighs %+v", w)
	}
}

func TestWeigh(t *testing.T) {
	on := func(typ Type, held time.Duration) Condition {
		return Condition{Type: typ, Status: Yes, For: held.Seconds(), Message: string(typ)}
	}
	names := func(cs []Condition) string {
		var s []string
		for _, c := range cs {
			s = append(s, string(c.Type))
		}
		return strings.Join(s, " ")
	}
	for _, c := range []struct {
		conditions      []Condition
		notReady, leave string
	}{
		{nil, "", ""},
		{[]Condition{on(Hot, time.Hour), on(UnderVoltage, time.Hour), on(UnitFailed, time.Hour)}, "", ""},
		{[]Condition{on(ReadOnlyRoot, 0)}, "ReadOnlyRoot", ""},
		{[]Condition{on(ReadOnlyRoot, 10*time.Second)}, "ReadOnlyRoot", "ReadOnlyRoot"},
		{[]Condition{on(DiskFull, 4*time.Minute), on(FilesystemErrorsGrowing, time.Minute)}, "FilesystemErrorsGrowing DiskFull", "FilesystemErrorsGrowing"},
		{[]Condition{on(DiskSlow, 30*time.Second)}, "", ""},
		{[]Condition{on(DiskSlow, time.Minute)}, "DiskSlow", ""},
		{[]Condition{on(DiskSlow, time.Hour)}, "DiskSlow", "DiskSlow"},
		{[]Condition{on(ClockImplausible, 0)}, "ClockImplausible", ""},
		{[]Condition{on(FilesystemErrors, time.Hour), on("Strange", time.Hour), {Type: DiskFull, Status: Maybe, For: 1e9}, {Type: DiskFull, Status: No, For: 1e9}}, "", ""},
	} {
		v := Weigh(c.conditions)
		if names(v.NotReady) != c.notReady || names(v.Leave) != c.leave {
			t.Errorf("%s: not ready %q, leave %q; want %q, %q", names(c.conditions), names(v.NotReady), names(v.Leave), c.notReady, c.leave)
		}
	}
}

// From a fault to what it means for the lease: two rounds, and the master a little later.
func TestFaultToVerdict(t *testing.T) {
	h := boot(t, boards(t)["pi4"])
	h.next()
	h.disks["/"] = Disk{Total: Of(1e9), Free: Of(5e8), ReadOnly: Yes}
	h.next()
	if v := Weigh(h.Conditions()); len(v.NotReady) != 1 || len(v.Leave) != 0 {
		t.Errorf("%+v", v)
	}
	h.next()
	if v := Weigh(h.Conditions()); len(v.Leave) != 1 || v.Leave[0].Type != ReadOnlyRoot {
		t.Errorf("%+v", v)
	}
}
