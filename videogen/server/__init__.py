"""The server: jobs that survive, two API dialects, and a studio on top of the generation pipelines.

`videogen serve` starts one process that answers HTTP and looks after worker processes; only the workers load the model.
What they share is a database (`database`, `jobs`) and a folder of files (`storage`).

| module | what it does |
| --- | --- |
| `app`, `minimax`, `openai_videos`, `extension` | HTTP: the application and its three dialects |
| `planning`, `optimizer`, `quality` | what a request becomes, prompt rewriting, what counts as a failed clip |
| `jobs`, `database`, `retention`, `callbacks` | the durable part: states, leases, expiry, deliveries |
| `worker`, `supervisor`, `ray_workers`, `generation` | who does the work |
| `auth`, `media`, `fetch`, `storage` | what keeps it safe |
"""
