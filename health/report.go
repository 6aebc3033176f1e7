package health

import (
	"encoding/json"
	"errors"
	"math"
	"time"
)

// Report is what one round measured. In JSON an unknown value is null.
type Report struct {
	// At is the wall clock when the round began, for people.
	At    time.Time `json:"at"`
	Board Board     `json:"board"`

	// CPUPercent is the busy share of all cores together since the round before,
	// 0 to 100; waiting for I/O counts as idle. Source: first line of /proc/stat.
	CPUPercent Value `json:"cpu_percent"`
	// CPUs is the number of cores that the kernel uses. Source: /proc/stat.
	CPUs Value `json:"cpus"`
	// Load is the mean number of runnable or stuck tasks over 1, 5 and 15
	// minutes. Source: /proc/loadavg.
	Load1  Value `json:"load1"`
	Load5  Value `json:"load5"`
	Load15 Value `json:"load15"`

	// Memory and swap in bytes. MemoryAvailable is the kernel's own estimate of
	// what could be used without swapping. Swap without a swap device is 0 of 0.
	// Source: /proc/meminfo.
	MemoryTotal     Value `json:"memory_total_bytes"`
	MemoryAvailable Value `json:"memory_available_bytes"`
	SwapTotal       Value `json:"swap_total_bytes"`
	SwapUsed        Value `json:"swap_used_bytes"`

	// Disks are the root and, if it is another, the file system of the agent's
	// state.
	Disks []Disk `json:"disks,omitempty"`

	// Temperature of the processor in degrees Celsius. Source: hwmon, else the
	// thermal zones.
	Temperature Value `json:"temperature_celsius"`
	// Uptime of the kernel in seconds, suspend counted. Source: /proc/uptime.
	Uptime Value `json:"uptime_seconds"`

	// Unknown says which collectors could not measure, and why.
	Unknown []Unknown `json:"unknown,omitempty"`
}

// Unknown is a value that could not be measured.
type Unknown struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Board is what the host is made of; "" = unknown.
type Board struct {
	Model string `json:"model,omitempty"` // "Raspberry Pi 4 Model B Rev 1.2"
}

// Disk is one mounted file system.
type Disk struct {
	Path string `json:"path"` // where it was looked at
	// Total and Free in bytes; Free is what a program without privileges may
	// still take. Source: statfs.
	Total Value `json:"total_bytes"`
	Free  Value `json:"free_bytes"`
	// ReadOnly: the kernel refuses writes, as it does after errors on an SD card.
	ReadOnly Truth `json:"read_only"`
}

// Value is a number that may be unknown. The zero Value is unknown.
type Value struct {
	v     float64
	known bool
}

// Of makes a known Value. What is no finite number stays unknown.
func Of(v float64) Value {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return Value{}
	}
	return Value{v, true}
}

// Get returns the number, and whether it is known.
func (v Value) Get() (float64, bool) { return v.v, v.known }

// MarshalJSON writes null for an unknown value.
func (v Value) MarshalJSON() ([]byte, error) {
	if !v.known {
		return []byte("null"), nil
	}
	return json.Marshal(v.v)
}

// UnmarshalJSON reads null as unknown.
func (v *Value) UnmarshalJSON(b []byte) error {
	*v = Value{}
	if string(b) == "null" {
		return nil
	}
	var f float64
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	*v = Of(f)
	return nil
}

// Truth is yes, no, or unknown, which it is at first.
type Truth uint8

// The truths.
const (
	Maybe Truth = iota // unknown
	No
	Yes
)

// TruthOf a known fact.
func TruthOf(b bool) Truth {
	if b {
		return Yes
	}
	return No
}

// String is yes, no or unknown.
func (t Truth) String() string {
	switch t {
	case Yes:
		return "yes"
	case No:
		return "no"
	}
	return "unknown"
}

// MarshalJSON writes true, false or null.
func (t Truth) MarshalJSON() ([]byte, error) {
	switch t {
	case Yes:
		return []byte("true"), nil
	case No:
		return []byte("false"), nil
	}
	return []byte("null"), nil
}

// UnmarshalJSON reads true, false or null.
func (t *Truth) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "true":
		*t = Yes
	case "false":
		*t = No
	case "null":
		*t = Maybe
	default:
		return errors.New("true, false or null is needed")
	}
	return nil
}
