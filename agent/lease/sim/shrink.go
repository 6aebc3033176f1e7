package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Smaller is how a schedule differs from what its seed says, after shrinking.
type Smaller struct {
	Keep    []int         // the faults that happen, by number; nil = all
	Part    map[int]uint  // fault i mends itself in 1/2^Part of its time
	Sooner  time.Duration // all faults happen so much earlier
	Until   time.Duration // everything is mended at this moment; 0 = Length
	Hosts   int           // 0 = as the seed says
	OneTime bool          // no clock is fast or slow
	Luck    uint64        // the network and all else throw other dice; 0 = the seed's
}

// tries is how often a smaller schedule is tried with other luck: what happens after
// a fault was left out is another story, and a rare failure needs its accident.
const tries = 12

// Shrink makes a failing schedule small: fewer faults, shorter ones, sooner, fewer
// hosts, exact clocks; each step is kept if the schedule still fails, if need be with
// other luck. One schedule always shrinks to the same.
func Shrink(cfg Config, fails func(Config) bool) Config {
	cfg.Trace = nil
	r := Run(cfg)
	if cfg.Keep == nil {
		cfg.Keep = []int{}
		for i := range r.Planned {
			cfg.Keep = append(cfg.Keep, i)
		}
	}
	try := func(change func(*Config)) bool {
		c := cfg
		c.Keep = slices.Clone(cfg.Keep)
		c.Part = map[int]uint{}
		for i, p := range cfg.Part {
			c.Part[i] = p
		}
		change(&c)
		for k := range uint64(tries) {
			if c.Luck = cfg.Luck + k; fails(c) {
				cfg = c
				return true
			}
		}
		return false
	}
	for again := true; again; {
		again = false
		for size := max(1, len(cfg.Keep)/2); size > 0; size /= 2 {
			for i := 0; i < len(cfg.Keep); {
				if try(func(c *Config) { c.Keep = slices.Delete(c.Keep, i, min(i+size, len(c.Keep))) }) {
					again = true
				} else {
					i += size
				}
			}
		}
		for hosts := 3; hosts < 7; hosts++ {
			if (cfg.Hosts == 0 || hosts < cfg.Hosts) && hosts < r.Hosts && try(func(c *Config) { c.Hosts = hosts }) {
				again = true
				break
			}
		}
		if !cfg.OneTime && try(func(c *Config) { c.OneTime = true }) {
			again = true
		}
		for _, i := range cfg.Keep {
			for cfg.Part[i] < 8 && try(func(c *Config) { c.Part[i]++ }) {
				again = true
			}
		}
	}
	for d := cfg.Length / 2; d >= time.Second; d /= 2 {
		try(func(c *Config) { c.Sooner += d })
	}
	for d := cfg.Length / 2; d >= time.Second; d /= 2 {
		try(func(c *Config) { c.Until = until(*c) - d })
	}
	for i := range cfg.Part {
		if !slices.Contains(cfg.Keep, i) {
			delete(cfg.Part, i)
		}
	}
	return cfg
}

func until(cfg Config) time.Duration {
	if cfg.Until > 0 {
		return min(cfg.Until, cfg.Length)
	}
	return cfg.Length
}

// SameFailure tells whether a schedule fails as the one of r did: a lost promise
// must not shrink to a cluster that only waits.
func SameFailure(r Result) func(Config) bool {
	return func(c Config) bool {
		s := Run(c)
		return s.Violation != "" && s.Unsafe == r.Unsafe
	}
}

// String is the schedule in one line; [Parse] reads it back.
func (cfg Config) String() string {
	s := []string{fmt.Sprintf("seed=%d", cfg.Seed), fmt.Sprintf("length=%v", cfg.Length), fmt.Sprintf("faults=%d", cfg.Faults)}
	add := func(yes bool, format string, args ...any) {
		if yes {
			s = append(s, fmt.Sprintf(format, args...))
		}
	}
	add(cfg.Loss != 0, "loss=%v", cfg.Loss)
	add(cfg.NoStopPost, "nostoppost=true")
	add(cfg.NoExecCondition, "noexeccondition=true")
	add(cfg.NoStartMargin, "nostartmargin=true")
	add(cfg.NoConfirm, "noconfirm=true")
	add(len(cfg.Only) > 0, "only=%s", strings.ReplaceAll(strings.Join(cfg.Only, "+"), " ", "_"))
	if cfg.Keep != nil {
		var k []string
		for _, i := range cfg.Keep {
			k = append(k, strconv.Itoa(i))
		}
		add(true, "keep=%s", strings.Join(k, "+"))
	}
	var p []string
	for _, i := range cfg.Keep {
		if cfg.Part[i] > 0 {
			p = append(p, fmt.Sprintf("%d:%d", i, cfg.Part[i]))
		}
	}
	add(p != nil, "part=%s", strings.Join(p, "+"))
	add(cfg.Sooner != 0, "sooner=%v", cfg.Sooner)
	add(cfg.Until != 0, "until=%v", cfg.Until)
	add(cfg.Hosts != 0, "hosts=%d", cfg.Hosts)
	add(cfg.OneTime, "onetime=true")
	add(cfg.Luck != 0, "luck=%d", cfg.Luck)
	return strings.Join(s, ",")
}

// Parse reads what [Config.String] wrote.
func Parse(s string) (cfg Config, err error) {
	cfg.Faults = -1
	for _, f := range strings.Split(s, ",") {
		k, v, _ := strings.Cut(f, "=")
		list := strings.FieldsFunc(v, func(r rune) bool { return r == '+' })
		var e error
		switch k {
		case "seed":
			cfg.Seed, e = strconv.ParseUint(v, 10, 64)
		case "length":
			cfg.Length, e = time.ParseDuration(v)
		case "faults":
			cfg.Faults, e = strconv.Atoi(v)
		case "loss":
			cfg.Loss, e = strconv.ParseFloat(v, 64)
		case "nostoppost":
			cfg.NoStopPost, e = strconv.ParseBool(v)
		case "noexeccondition":
			cfg.NoExecCondition, e = strconv.ParseBool(v)
		case "nostartmargin":
			cfg.NoStartMargin, e = strconv.ParseBool(v)
		case "noconfirm":
			cfg.NoConfirm, e = strconv.ParseBool(v)
		case "only":
			for _, n := range list {
				cfg.Only = append(cfg.Only, strings.ReplaceAll(n, "_", " "))
			}
		case "keep":
			cfg.Keep = []int{}
			for _, n := range list {
				i, bad := strconv.Atoi(n)
				if bad != nil {
					e = bad
				}
				cfg.Keep = append(cfg.Keep, i)
			}
		case "part":
			cfg.Part = map[int]uint{}
			for _, n := range list {
				var i int
				var p uint
				if _, e = fmt.Sscanf(n, "%d:%d", &i, &p); e != nil {
					break
				}
				cfg.Part[i] = p
			}
		case "sooner":
			cfg.Sooner, e = time.ParseDuration(v)
		case "until":
			cfg.Until, e = time.ParseDuration(v)
		case "hosts":
			cfg.Hosts, e = strconv.Atoi(v)
		case "luck":
			cfg.Luck, e = strconv.ParseUint(v, 10, 64)
		case "onetime":
			cfg.OneTime, e = strconv.ParseBool(v)
		default:
			e = fmt.Errorf("unknown word")
		}
		if e != nil {
			return cfg, fmt.Errorf("schedule %q: %q: %w", s, f, e)
		}
	}
	return cfg, nil
}
