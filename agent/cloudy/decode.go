package cloudy

import (
	"bytes"
	"compress/bzip2"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// Limits bound what one tag can make us hold; 0 = the default.
type Limits struct {
	Tag     int // bytes as it comes; Serf's own limit of 512 binds only who obeys it
	Plain   int // bytes when decompressed
	Entries int
}

func (l Limits) orDefaults() Limits {
	or := func(n *int, or int) {
		if *n == 0 {
			*n = or
		}
	}
	or(&l.Tag, 16<<10)
	or(&l.Plain, 64<<10)
	or(&l.Entries, 256)
	return l
}

// Limits of one entry's texts, in bytes.
const (
	maxName = 63 // a DNS label
	maxText = 255
	maxTXT  = 1024
)

// Decode reads a tag. What can be used is returned also where something is wrong;
// the error says what is not. Type and Origin of each entry are set, Node and Since
// are for the caller to say.
func Decode(tag string, limits Limits) ([]Entry, error) {
	limits = limits.orDefaults()
	plain, err := unpack(tag, limits)
	if plain == nil {
		return nil, fmt.Errorf("read Cloudy's list of services: %w", err)
	}
	entries, err2 := parseAny(plain, limits.Entries)
	if err = errors.Join(err, err2); err != nil {
		err = fmt.Errorf("read Cloudy's list of services: %w", err)
	}
	return entries, err
}

// parseAny reads what nodes of any year write: those of before October 2018 wrap the last
// service in apostrophes.
func parseAny(plain []byte, max int) ([]Entry, error) {
	entries, err := parse(plain, max)
	if err != nil && bytes.IndexByte(plain, '\'') >= 0 {
		if more, err2 := parse(bytes.ReplaceAll(plain, []byte{'\''}, []byte{'"'}), max); len(more) > len(entries) {
			return more, err2
		}
	}
	return entries, err
}

// unpack undoes base64 and bzip2. What comes before a fault or a limit is returned
// with the error.
func unpack(tag string, limits Limits) ([]byte, error) {
	if len(tag) > limits.Tag {
		return nil, fmt.Errorf("it has %d bytes, %d are read", len(tag), limits.Tag)
	}
	packed, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(tag), "="))
	if err != nil {
		return nil, err
	}
	if len(packed) > 4 && packed[3] >= '1' && packed[3] <= '9' {
		// The level says for blocks of which size memory is needed. The smallest, 100 kB,
		// holds all that we read, and takes 400 kB instead of the 3.6 MB of Cloudy's level 9.
		packed[3] = '1'
	}
	plain, err := io.ReadAll(io.LimitReader(bzip2.NewReader(bytes.NewReader(packed)), int64(limits.Plain)+1))
	if len(plain) > limits.Plain {
		return plain[:limits.Plain], fmt.Errorf("it is longer than %d bytes", limits.Plain)
	}
	if err != nil && len(plain) == 0 {
		return nil, err
	}
	return plain, err
}

// parse reads the array as far as it goes.
func parse(plain []byte, max int) (entries []Entry, err error) {
	d := json.NewDecoder(bytes.NewReader(plain))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, errors.Join(errors.New("it is no JSON array"), err)
	}
	unusable := 0
	for d.More() {
		if len(entries)+unusable == max {
			return entries, fmt.Errorf("it has more than %d services; the rest is left out", max)
		}
		// A map and not a struct: the keys are case-sensitive, and of two that are
		// equal the last one counts, as for those who read it in Cloudy.
		var values map[string]json.RawMessage
		var wrong *json.UnmarshalTypeError
		if err := d.Decode(&values); errors.As(err, &wrong) {
			values = nil
		} else if err != nil {
			return entries, fmt.Errorf("after %d services: %w", len(entries), err)
		}
		if e, ok := entry(values); ok {
			entries = append(entries, e)
		} else {
			unusable++
		}
	}
	if _, err := d.Token(); err != nil {
		return entries, fmt.Errorf("after %d services: %w", len(entries), err)
	}
	if unusable > 0 {
		return entries, fmt.Errorf("%d of its services have neither a type nor a name", unusable)
	}
	return entries, nil
}

// entry makes the best of one service. Type and description are needed, no more.
func entry(values map[string]json.RawMessage) (Entry, bool) {
	description := clean(text(values["d"]), maxText)
	e := Entry{
		Name:       cut(description, maxName),
		Type:       dnsType(text(values["s"])),
		Host:       clean(text(values["m"]), maxText),
		MicroCloud: clean(text(values["e"]), maxName),
		TXT:        splitTXT(cut(text(values["t"]), maxTXT)),
		Origin:     OriginCloudy,
	}
	if e.Name == "" {
		e.Name = cut(e.Host, maxName)
	}
	if description != e.Name {
		e.Description = description
	}
	if p, err := strconv.Atoi(text(values["p"])); err == nil && p > 0 && p < 65536 {
		e.Port = p
	}
	if a, err := netip.ParseAddr(text(values["i"])); err == nil && others(a) {
		e.Addrs = []netip.Addr{a.Unmap()}
	}
	return e, e.Type != "" && e.Name != ""
}

// others says whether a stranger's service can have this address: this host's own
// and everybody's are none.
func others(a netip.Addr) bool {
	a = a.Unmap()
	return a.Zone() == "" && a.IsGlobalUnicast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// text is a value that is written as text or as a number; anything else is "".
func text(v json.RawMessage) string {
	var s string
	if len(v) > 0 && v[0] == '"' && json.Unmarshal(v, &s) == nil {
		return strings.TrimSpace(s)
	}
	if len(v) > 0 && (v[0] == '-' || v[0] >= '0' && v[0] <= '9') {
		return string(v)
	}
	return ""
}
