package peer

import "testing"

// TestStatusError: a refusal is told in the words of who refuses.
func TestStatusError(t *testing.T) {
	for want, e := range map[string]StatusError{
		"n2 says: n4 is alive":                         {"n2", "/v1/order", 503, "n4 is alive"},
		"/v1/order on n2: 503 Service Unavailable":     {"n2", "/v1/order", 503, ""},
		"/v1/order on n2: 403 Forbidden: who are you?": {"n2", "/v1/order", 403, "who are you?"},
	} {
		if got := e.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
