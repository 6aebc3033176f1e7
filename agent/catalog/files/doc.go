// Package files takes services from a folder: /etc/relevo/services.d.
//
//	yaml.go     *.yaml: our own form, which avahi-ps writes, too
//	xml.go      *.service: the form of avahi-daemon
//	folder.go   the folder, watched
//	source.go   files and their checks → entries of the catalog
//
// A mistake costs the service that it is in: it is told with file, line and column, and
// the rest goes on.
package files
