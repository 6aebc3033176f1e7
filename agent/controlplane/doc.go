// Package controlplane is what "the master" is on this host: systemd units, started in
// order and stopped in reverse, with a drop-in that lets nothing start them without the
// lease (units.go).
//
// Of kind k3s it is one unit, and one that runs while the host is a standby. Both are of
// KillMode=process: stopping or killing one ends the server, which is the API, the
// datastore and the controllers in one process, and leaves the containers of this node
// running. That is what counts: pods of a node that lost the mastership go on as on any
// other node.
package controlplane
