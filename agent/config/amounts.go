package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// orOff lets the word off stand for zero.
func orOff(p *time.Duration, set setter) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		if n.Kind == yaml.ScalarNode && n.Value == "off" {
			*p = 0
			return
		}
		set(d, n, path)
	}
}

func orOffText(d time.Duration) string {
	if d == 0 {
		return "off"
	}
	return Short(d)
}

// timeOfDay is HH:MM, as the time since midnight. Without quotes YAML 1.1 would read some
// of them as numbers; this reader does not.
func timeOfDay(p *time.Duration) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		t, err := time.Parse("15:04", n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			d.fail(n, path, "is %s: a time of day such as \"03:00\" is needed", describe(n))
			return
		}
		*p = time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
	}
}

func timeOfDayText(d time.Duration) string {
	return fmt.Sprintf("%02d:%02d", int(d.Hours()), int(d.Minutes())%60)
}

// mebibytes is an amount such as 600MiB, in bytes.
func mebibytes(p *int64, low, high int64) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		s, ok := strings.CutSuffix(n.Value, "MiB")
		v, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		switch {
		case n.Kind != yaml.ScalarNode || !ok || err != nil:
			d.fail(n, path, "is %s: an amount such as 600MiB is needed", describe(n))
		case v < low || v > high:
			d.fail(n, path, "%s is out of range: %dMiB to %dMiB are allowed", n.Value, low, high)
		default:
			*p = v << 20
		}
	}
}
