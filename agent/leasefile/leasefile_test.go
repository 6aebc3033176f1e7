package leasefile

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lease")
	if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	want := Lease{Node: "n1", Term: 7, Deadline: 20 * time.Second, TTL: 6 * time.Second, Units: []string{"kine.service", "kube-apiserver.service"}, VIP: netip.MustParseAddr("10.77.0.100"), Start: true}
	if err := Write(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	want.Start = false
	if want.Held(time.Second) {
		t.Error("a unit may start while all are being stopped")
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if !got.Held(17*time.Second) || got.Held(18*time.Second) || got.StopAt() != 18*time.Second || got.KillAt() != 19*time.Second {
		t.Errorf("%v %v", got.StopAt(), got.KillAt())
	}
	if err := errors.Join(Remove(path), Remove(path)); err != nil {
		t.Error(err)
	}
	if a, b := Boottime(), Boottime(); b < a || a <= 0 {
		t.Errorf("the clock goes back: %v, %v", a, b)
	}
}

const good = "term=7\ndeadline=1\nttl=1\nnode=n1\nunits=a.service\nvip=\nstart=true\n"

func TestDamaged(t *testing.T) {
	for _, s := range []string{"", "term=7", "x", strings.Replace(good, "7", "-7", 1), strings.Replace(good, "=1", "=-1", 1),
		strings.Replace(good, "7", "0", 1), good + "more=1\n", good + "term=8\n", good[:len(good)-11]} {
		if l, err := Parse(strings.NewReader(s)); err == nil {
			t.Errorf("%q is taken for %+v", s, l)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Fuzz(func(t *testing.T, s string) {
		if l, err := Parse(strings.NewReader(s)); err == nil && (l.Term == 0 || l.Deadline < 0 || l.TTL <= 0) {
			t.Errorf("%q is taken for %+v", s, l)
		}
	})
}
