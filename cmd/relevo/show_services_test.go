package main

import (
	"context"
	"time"

	"relevo.dev/relevo/agent/api"
)

func (f *fake) Browse(context.Context) (api.Services, error) {
	return api.Services{Backend: "avahi", Services: []api.Service{
		{Name: "evil\x1b[2Jprinter\u202e", Type: "_ipp._tcp", Port: 631, Origin: "browsed"},
		{Name: "zero [b8:27:eb:00:00:01]", Type: "_workstation._tcp", Host: "zero", Addresses: []string{"10.77.0.9"}, Port: 9, Origin: "browsed"},
	}}, f.err
}

func (f *fake) Services(context.Context) (api.Services, error) {
	return api.Services{Services: []api.Service{
		{Name: "home", Type: "_kubernetes._tcp", Node: "n1", Addresses: []string{"10.77.0.100"}, Port: 6443, Origin: "agent", Health: "ok", Since: now.Add(-51 * time.Hour)},
		{Name: "Shop", Type: "_https._tcp", Node: "n2", Addresses: []string{"10.77.0.2", "fd00::2"}, Port: 443, Origin: "file", Health: "failing", Why: "connection refused", Since: now.Add(-90 * time.Second)},
		{Name: "Radio", Type: "_radio._tcp", Node: "far", Host: "far.guifi.local", Addresses: []string{"10.1.2.3"}, Port: 8000, Origin: "cloudy", Health: "unchecked", MicroCloud: "theirs", Since: now.Add(-time.Hour)},
	}, Problems: []api.Problem{{Severity: api.Warning, What: "n2: shop.yaml:3:7: port: is out of range"}}}, f.err
}
