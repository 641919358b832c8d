package prepare

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// heldFile is the State that the agent has committed.
const heldFile = site.StateDirectory + "/state.json"

// checkLimits finds what this gateway serves and the planned limits.yaml would not allow: from then on it would refuse every State that
// has it still, so that its Services changed no more, or lost their addresses.
func (p *preparer) checkLimits() []Finding {
	i := slices.IndexFunc(p.plan.Files, func(f site.File) bool { return f.Path == site.LimitsFile })
	if i < 0 {
		return nil
	}
	held, err := p.held()
	if err != nil {
		return []Finding{{Problem: err.Error(), Warning: true,
			Remedy: "nobody knows whether " + site.LimitsFile + " would allow what this gateway serves; compare it with its pools"}}
	}
	if held == nil {
		return nil
	}
	planned, err := agent.DecodeLimits(p.plan.Files[i].Content)
	if err != nil {
		return []Finding{{Problem: fmt.Sprintf("%s as it is to be: %v", site.LimitsFile, err)}}
	}
	cut := planned.Outside(held, p.plan.Gateway)
	if text, err := p.machine.ReadFile(site.LimitsFile); err == nil {
		if now, err := agent.DecodeLimits(text); err == nil {
			refused := now.Outside(held, p.plan.Gateway) // already: that is not of our making
			cut = slices.DeleteFunc(cut, func(f wire.Fault) bool {
				return slices.ContainsFunc(refused, func(r wire.Fault) bool { return r.Field == f.Field })
			})
		}
	}
	if len(cut) == 0 {
		return nil
	}
	return []Finding{{
		Problem: fmt.Sprintf("%s would not allow what this gateway serves: %s; it would refuse every State until that is gone", site.LimitsFile, cutList(cut)),
		Remedy: "give the controller the narrower configuration first, have the Services leave (another address, or deleted), and run this again; " +
			"or put back what was taken out of the cloud configuration; --ignore " + checkLimits + " or --adopt goes on all the same",
		Warning: p.plan.Adopt,
	}}
}

// held is the State that this gateway serves; nil: none.
func (p *preparer) held() (*desired.State, error) {
	text, err := p.machine.ReadFile(heldFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var signed desired.Signed
	if err := json.Unmarshal(text, &signed); err != nil {
		return nil, fmt.Errorf("reading %s: %w", heldFile, err)
	}
	state, err := desired.Decode(signed.State)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", heldFile, err)
	}
	return state, nil
}

// cutList names the first few, with their Services.
func cutList(cut []wire.Fault) string {
	const most = 5
	var words []string
	for i, f := range cut {
		if i == most {
			words = append(words, fmt.Sprintf("and %d more", len(cut)-most))
			break
		}
		word := f.Message
		if f.LoadBalancer != nil {
			word = fmt.Sprintf("Service %s: %s", f.LoadBalancer, word)
		}
		words = append(words, fmt.Sprintf("%s (%s)", word, f.Field))
	}
	return strings.Join(words, "; ")
}
