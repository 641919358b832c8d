package prepare

import (
	"context"
	"errors"
	"fmt"
)

// adopt lets a rebuilt cluster have this gateway: its keys are believed, and the agent forgets which cluster it belonged to. What
// runs goes on.
func (p *preparer) adopt(ctx context.Context) error {
	if err := p.installFiles(ctx); err != nil {
		return err
	}
	const what = "cluster"
	if p.plan.DryRun {
		p.step(what, WouldDo)
		return nil
	}
	if p.Forget == nil {
		return errors.New("no agent can be asked")
	}
	forgot, err := p.Forget(ctx)
	if err != nil {
		p.step(what, Failed)
		return fmt.Errorf("having the agent forget its cluster: %w", err)
	}
	if !forgot {
		p.step(what, Unchanged)
		return nil
	}
	p.step(what, "forgotten")
	return nil
}
