package sim

import (
	"reflect"
	"testing"
	"time"
)

func TestScheduleInOneLine(t *testing.T) {
	for _, cfg := range []Config{
		config(7),
		{Seed: 1, Length: time.Hour, Faults: 40, Loss: 0.05, NoStopPost: true, NoExecCondition: true, NoStartMargin: true, NoConfirm: true, Only: []string{"host frozen", "one way"},
			Smaller: Smaller{Keep: []int{1, 12}, Part: map[int]uint{12: 3}, Sooner: 4 * time.Second, Until: time.Minute, Hosts: 4, OneTime: true, Luck: 3}},
		{Seed: 2, Length: time.Minute, Faults: -1, Smaller: Smaller{Keep: []int{}}},
	} {
		got, err := Parse(cfg.String())
		if err != nil || !reflect.DeepEqual(got, cfg) {
			t.Errorf("%v came back as %v (%v)", cfg, got, err)
		}
	}
	for _, s := range []string{"", "seed", "seed=x", "keep=1+x", "part=1", "colour=red", "until=5"} {
		if _, err := Parse(s); err == nil {
			t.Errorf("%q was read", s)
		}
	}
}

// What is left out must not change what the other faults draw.
func TestFaultsHaveTheirOwnDice(t *testing.T) {
	cfg := config(11)
	cfg.Faults = 6
	all := Run(cfg)
	for i, want := range all.Faults {
		cfg.Keep = []int{i}
		got := Run(cfg).Faults
		// Whom a fault strikes depends on who leads then; when it comes does not.
		if len(got) != 1 || len(want) < 12 || len(got[0]) < 12 {
			t.Fatalf("fault %d alone: %q, among others %q", i, got, want)
		}
	}
}
