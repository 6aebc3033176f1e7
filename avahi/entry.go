package avahi

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Entry is a service that was found. Its texts are fit to be shown: what is no
// visible character is written as an escape.
type Entry struct {
	Name  string
	Type  string
	Host  string // host label, without .local
	Addr  netip.Addr
	Port  int
	TXT   []string
	Local bool // announced by this very host, as far as that can be told
}

// Value is the value of a TXT key, "" if it is not there.
func (e Entry) Value(key string) string {
	for _, t := range e.TXT {
		if k, v, _ := strings.Cut(t, "="); strings.EqualFold(k, key) {
			return v
		}
	}
	return ""
}

// Bounds of what one stranger's service may make us remember, in bytes. A DNS label
// of 63 bytes of nonsense is four times as long when it is escaped.
const (
	maxShownName = 4 * MaxName
	maxShownText = 2 * MaxTXT
	maxTexts     = 64
	maxAllTexts  = 4 * MaxTXTs
)

// clean makes an entry from the network harmless, or refuses it.
func (e Entry) clean() (Entry, bool) {
	if e.Name == "" || !ValidType(e.Type) || e.Port < 1 || e.Port > 65535 || !e.Addr.IsValid() || e.Addr.IsUnspecified() || e.Addr.IsMulticast() || e.Addr.IsLoopback() {
		return e, false
	}
	e.Name, e.Host, e.Addr = Printable(e.Name, maxShownName), Printable(e.Host, maxShownName), e.Addr.Unmap().WithZone("")
	var txt []string
	total := 0
	for _, t := range e.TXT {
		if t == "" || len(t) > MaxTXT {
			continue // "" is how a service without texts is written
		}
		t = Printable(t, maxShownText)
		if total += len(t); total > maxAllTexts || len(txt) == maxTexts {
			break
		}
		txt = append(txt, t)
	}
	e.TXT = txt
	return e, true
}

func (e Entry) equal(o Entry) bool {
	return e.Name == o.Name && e.Type == o.Type && e.Host == o.Host && e.Addr == o.Addr && e.Port == o.Port && e.Local == o.Local && slices.Equal(e.TXT, o.TXT)
}

func compareEntries(a, b Entry) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
}
