package haproxy

// ParseServers reads the output of Runtime.ServersState, or a file of Local.ServerState: the servers by backend, as far as that
// tells them. It is a small part of what Read asks for.
func ParseServers(state []byte) (map[string]*RunningBackend, error) {
	r := &Running{Backends: map[string]*RunningBackend{}}
	text := string(state)
	for len(text) > 0 && text[len(text)-1] == '\n' {
		text = text[:len(text)-1]
	}
	if err := r.parseServers(text); err != nil {
		return nil, err
	}
	return r.Backends, nil
}
