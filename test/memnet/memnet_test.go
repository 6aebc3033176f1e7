package memnet

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

func TestCutAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		l, err := n.Listen("b:1")
		if err != nil {
			t.Fatal(err)
		}
		c, err := n.Dialer("a")(t.Context(), "tcp", "b:1")
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		n.Cut("a", "b")
		fmt.Fprint(c, "hi")
		s.SetReadDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 2)
		if _, err := s.Read(buf); err == nil {
			t.Error("a cut link delivered")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Dialer("a")(ctx, "tcp", "b:1"); err == nil {
			t.Error("dialled over a cut link")
		}
		n.Heal("a", "b")
		s.SetReadDeadline(time.Time{})
		if _, err := io.ReadFull(s, buf); err != nil || string(buf) != "hi" {
			t.Errorf("after healing: %q, %v", buf, err)
		}
		n.Drop("a")
		if _, err := s.Read(buf); err != io.EOF {
			t.Errorf("after a drop: %v", err)
		}
		l.Close()
	})
}
