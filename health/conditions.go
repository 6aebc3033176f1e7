package health

import "fmt"

// Condition is something about this host that a person, or the failover, should
// know.
type Condition struct {
	Type    string `json:"type"`   // ReadOnlyRoot, DiskFull, Hot, MemoryPressure
	Status  Truth  `json:"status"` // true = it is so
	Message string `json:"message,omitempty"`
	Do      string `json:"do,omitempty"` // what helps
}

// Thresholds of Conditions.
const (
	// A datastore and a log need room to breathe: the larger of the two counts.
	fullFreeShare = 0.05
	fullFreeBytes = 256 << 20
	// The firmware of a Raspberry Pi begins to slow down at 80 degrees.
	hotCelsius = 80
	// Below this share of memory Linux is about to kill programs.
	pressureShare = 0.05
)

// Conditions judges one report. Each condition is there once, with status unknown
// where the report does not say.
func Conditions(r Report) []Condition {
	root := Condition{Type: "ReadOnlyRoot"}
	full := Condition{Type: "DiskFull"}
	for i, d := range r.Disks {
		if i == 0 {
			root.Status = d.ReadOnly
		} else if d.ReadOnly == Yes {
			root.Status = Yes
		}
		if d.ReadOnly == Yes {
			root.Message = fmt.Sprintf("the file system of %s is read-only", d.Path)
			root.Do = "look for I/O errors with `journalctl -k`; an SD card that did this once will do it again: replace it"
		}
		total, ok1 := d.Total.Get()
		free, ok2 := d.Free.Get()
		switch {
		case !ok1 || !ok2:
		case free < min(max(total*fullFreeShare, fullFreeBytes), total/2):
			full.Status = Yes
			full.Message = fmt.Sprintf("%s has %.0f MB left of %.0f MB", d.Path, free/1e6, total/1e6)
			full.Do = "find what fills it with `du -xh / | sort -h | tail`, and remove it"
		case full.Status == Maybe:
			full.Status = No
		}
	}

	hot := Condition{Type: "Hot"}
	if c, ok := r.Temperature.Get(); ok {
		if hot.Status = TruthOf(c >= hotCelsius); hot.Status == Yes {
			hot.Message = fmt.Sprintf("the processor has %.0f °C and slows down", c)
			hot.Do = "give it air or a heat sink"
		}
	}

	memory := Condition{Type: "MemoryPressure"}
	total, ok1 := r.MemoryTotal.Get()
	avail, ok2 := r.MemoryAvailable.Get()
	if ok1 && ok2 {
		if memory.Status = TruthOf(avail < total*pressureShare); memory.Status == Yes {
			memory.Message = fmt.Sprintf("%.0f MB of %.0f MB memory are left", avail/1e6, total/1e6)
			memory.Do = "see with `ps aux --sort -rss | head` what takes it"
		}
	}
	return []Condition{root, full, hot, memory}
}
