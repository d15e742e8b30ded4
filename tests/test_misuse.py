"""What people really type wrong, for every tool: it ends in one sentence that names what is wrong, with an
exit code of 1 (or 2 from the parser of the command line), and not a byte on the disk has changed."""

import hashlib
import json
import os
import runpy
import shlex
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, SCRIPTS, Fork, start, train

from cleanrl_cc.common import machine
from cleanrl_cc.common.checkpoints import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow

# If what is wrong were not refused, these would end soon.
SHORT = "--env-id Pendulum-v1 --total-timesteps 60 --eval-episodes 1 --run-name new --device cpu"
CONFIGS = {
    "unknown": "learning_rat: 1",
    "type": "gamma: high",
    "list": "- 1",
    "nothing": "",
    "nested": "gamma: {a: 1}",
    "range": "gamma: 7",
    "bool": "grayscale: 7",
    "resume": "resume: nowhere",
    "config": "config: config.yaml",
    "tab": "\tgamma: 1",
    "recursive": "gamma: &a\n  b: *a",
    "twice": "gamma: 0.9\ngamma: 0.8",
    "dash": "learning-rate: 0.1\nlearning_rate: 0.2",
    "two": "gamma: 1\n---\ngamma: 2",
    "tag": "gamma: !!python/object/apply:os.system ['touch executed']",
}
MODULES = {
    "syntax": "def f(:",
    "raising": "1/0",
    "exits": "import sys; sys.exit(0)",
    "empty": "",
    "needs": "import no_such_library",
    "function": "import gymnasium\ngymnasium.register('Function-v0', lambda **_: 5)",
}
SPACES = {
    "list": "- 1",
    "turned": "gamma: {low: 1, high: 0}",
    "key": "gama: [0.9]",
    "value": "gamma: [2]",
    "log": "gamma: {low: 0, high: 1, log: true}",
    "nan": "gamma: {low: nan, high: 1}",
    "infinite": "learning_rate: {low: 1, high: 1e400}",
    "step": "gamma: {low: 0, high: 1, step: 0.1}",
    "lists": "gamma: {low: [0], high: 1, log: [1]}",
}
COLUMNS = "global_step,seconds,return_mean,return_std\n"
DESCRIPTION = {
    "algorithm": "td3",
    "args": {
        "env_id": "Pendulum-v1",
        "seed": 1,
        "obs": "auto",
        "total_timesteps": 100,
        "action_repeat": 1,
        "precision": "fp32",
        "run_name": "a",
    },
    "commands": ["python cleanrl_cc/td3.py"],
    "machine": {"processor": "P", "cores": 1, "threads": 1, "gpu": None},
    "versions": {"torch": "2"},
}
WHOLE = json.dumps(DESCRIPTION)
RESULTS = {
    "no-evaluations": (WHOLE, None),
    "broken": ("{", COLUMNS + "10,1,2,3\n"),
    "of-a-list": ("[1]", COLUMNS + "10,1,2,3\n"),
    "of-text": (WHOLE, COLUMNS + "10,1,much,3\n"),
    "without-columns": (WHOLE, "global_step,return_mean\n10,1\n"),
    "empty-table": (WHOLE, COLUMNS),
    "torn": (WHOLE, COLUMNS + "10,1"),
    "whole": (WHOLE, COLUMNS + "10,1,2,3\n"),
    "unscored": (WHOLE, COLUMNS + "10,1,2,3\n"),
    "foreign": (WHOLE, COLUMNS + "10,1,2,3\n"),
    "without-args": (json.dumps(DESCRIPTION | {"args": {}}), COLUMNS + "10,1,2,3\n"),
    "of-another": (json.dumps(DESCRIPTION | {"algorithm": "ppo2"}), COLUMNS + "10,1,2,3\n"),
    "outside": (json.dumps(DESCRIPTION | {"args": DESCRIPTION["args"] | {"run_name": "../x/y"}}), COLUMNS),
}

# A tool, what is typed (after {short} where a script would begin to train), and words of the sentence.
TYPED = {
    "td3": """
Pendulum-v1                                     | Pendulum-v1
--env-id                                        | --env-id
--env-id ''                                     | Unknown environment ''
--env-id Pendulum                               | did you mean Pendulum-v1
--env-id pendulum-v1                            | did you mean Pendulum-v1
--env-id Pendulum-v99                           | Pendulum-v99
--env-id ALE/Pong-v5                            | ALE/Pong-v5
--env-id Ant-v3                                 | Ant-v3
--env-id Ünïcode-v0                             | Ünïcode-v0
--env-id 环境-v1                                | 环境-v1
--env-id :Pendulum-v1                           | Empty module name
--env-id ../x:Env-v0                            | ../x:Env-v0
--env-id no_such_module:Env-v0                  | there is no module no_such_module
--env-id syntax_module:Env-v0                   | SyntaxError
--env-id raising_module:Env-v0                  | ZeroDivisionError
--env-id exits_module:Env-v0                    | SystemExit
--env-id empty_module:Env-v0                    | Unknown environment
--env-id needs_module:Env-v0                    | no_such_library
--env-id function_module:Function-v0            | cannot be made
--env-id os:Env-v0                              | Unknown environment
--env-id dm_control/walker                      | did you mean dm_control/walker-run-v0
--env-id CartPole-v1                            | use dqn_atari_style.py
--env-id Blackjack-v1                           | use dqn_atari_style.py
{short} --device cpu:5                          | --device cpu:5 is not available
{short} --device CPU                            | --device CPU is not available
{short} --device ''                             | is not available
{short} --device hpu                            | --device hpu is not available
{short} --device privateuseone                  | --device privateuseone is not available
{short} --device meta                           | --device meta is not available
{short} --device mps                            | --device mps is not supported
{short} --device cuda:99                        | --device cuda:99 is not available
{short} --total-timesteps nan                   | --total-timesteps
{short} --total-timesteps 1e400                 | --total-timesteps
{short} --total-timesteps 1e16                  | --total-timesteps must be at most
{short} --total-timesteps -5                    | --total-timesteps must be at least 1
{short} --total-timesteps 1.5                   | 1.5 is not a whole number
{short} --total-timesteps 1,000                 | 1,000 is not a whole number
{short} --num-envs 0                            | --num-envs must be at least 1
{short} --num-envs 100000000000                 | --num-envs must be at most
{short} --batch-size ten                        | ten is not a whole number
{short} --batch-size 99999999999999999999999    | --batch-size must be at most
{short} --batch-size 5 6                        | 6
{short} --batchsize 5                           | --batchsize
{short} --buffer-size 1e15                      | the largest that fits is --buffer-size
{short} --buffer-size ½                         | --buffer-size
{short} --hidden-dim 10000000                   | --hidden-dim must be at most
{short} --hidden-dim 0x10                       | --hidden-dim
{short} --seed -1                               | --seed must be at least 0
{short} --seed 1e30                             | --seed must be at most
{short} --no-seed                               | --no-seed
{short} --frame-stack 0                         | --frame-stack must be at least 1
{short} --frame-stack 256                       | --frame-stack must be at most 255
{short} --image-size 100000                     | --image-size must be at most
{short} --obs pixels --image-size 35            | --image-size must be at least 36
{short} --obs smell                             | --obs
{short} --precision fp16                        | --precision
{short} --action-set five                       | --action-set five is CarRacing's
{short} --gamma nan                             | --gamma must be a finite number
{short} --gamma 0,9                             | --gamma
{short} --tau inf                               | --tau must be a finite number
{short} --learning-rate 1e400                   | --learning-rate must be a finite number
{short} --learning-rate -1                      | --learning-rate must be above 0
{short} --updates-per-step 1e9                  | --updates-per-step must be at most
{short} --policy-noise ''                       | --policy-noise
{short} --grayscale True                        | True
{short} --num-threads 1e9                       | --num-threads must be at most
{short} --action-repeat 1025                    | --action-repeat must be at most
{short} --training-wrappers Nope                | --training-wrappers Nope cannot be used
{short} --training-wrappers os:path             | --training-wrappers os:path cannot be used
{short} --training-wrappers syntax_module:X     | SyntaxError
{short} --training-wrappers exits_module:X      | SystemExit
{short} --training-wrappers RoadRules,speed=1   | RoadRules,speed=1 cannot be used
{short} --run-name ..                           | --run-name must be
{short} --run-name .                            | --run-name must be
{short} --run-name ''                           | --run-name must be
{short} --run-name ' '                          | --run-name must be
{short} --run-name /etc                         | --run-name must be
{short} --run-name a/../../b                    | --run-name must be
{short} --run-name td3                          | --resume runs/td3 to go on
{short} --run-name td3/inner                    | lies inside another run
{short} --run-name file                         | is not a folder
{short} --run-name file/x                       | cannot be created
{short} --runs-dir ''                           | --runs-dir must be a folder
{short} --runs-dir notes.txt                    | cannot be created
{short} --runs-dir /proc/x                      | cannot be created
{short} --runs-dir /dev/null/x                  | cannot be created
{short} --runs-dir loop                         | cannot be created
{short} --runs-dir {long}                       | cannot be created
{short} --run-name {long}/x                     | cannot be created
{short} --runs-dir runs/td3                     | lies inside another run
{short} --runs-dir . --run-name full            | holds notes.txt
{short} --config nowhere.yaml                   | --config nowhere.yaml cannot be read
{short} --config .                              | cannot be read
{short} --config ''                             | cannot be read
{short} --config unknown.yaml                   | did you mean learning_rate
{short} --config type.yaml                      | --gamma
{short} --config list.yaml                      | holds no arguments
{short} --config nothing.yaml                   | holds no arguments
{short} --config nested.yaml                    | must be a value
{short} --config range.yaml                     | --gamma must be at most 1
{short} --config bool.yaml                      | grayscale must be true or false
{short} --config resume.yaml                    | There is no checkpoint at nowhere
{short} --config config.yaml                    | config is not an argument
{short} --config tab.yaml                       | is not YAML in line 1
{short} --config recursive.yaml                 | is not YAML in line 1
{short} --config twice.yaml                     | says gamma twice
{short} --config dash.yaml                      | says learning_rate twice
{short} --config dash.yaml --config type.yaml   | --config is given 2 times
{short} --config two.yaml                       | is not YAML
{short} --config tag.yaml                       | --gamma
{short} --config binary.yaml                    | is not text
--resume ''                                     | There is no checkpoint
--resume nowhere                                | There is no checkpoint at nowhere
--resume empty                                  | There is no checkpoint at empty/last.pt
--resume runs                                   | There is no checkpoint at runs/last.pt
--resume dangling                               | There is no checkpoint
--resume loop                                   | There is no checkpoint
--resume /dev/null                              | There is no checkpoint
--resume {long}                                 | There is no checkpoint
--resume notes.txt                              | notes.txt is damaged
--resume empty.pt                               | empty.pt is damaged
--resume foreign.pt                             | foreign.pt is damaged
--resume tensor.pt                              | tensor.pt is damaged
--resume module.pt                              | module.pt is damaged
--resume arrays.pt                              | arrays.pt is damaged
--resume runs/td3/args.json                     | args.json is damaged
--resume runs/td3/best.pt                       | resume from a run folder
--resume runs/sac_drq                           | resume it with that script
--resume runs/td3 --seed 9                      | --seed is 1
--resume runs/td3 --gamma 0.5                   | --gamma is 0.99
--resume runs/td3 --num-envs 2                  | --num-envs is 1
--resume runs/td3 --env-id CarRacing-v3         | --env-id is 'Pendulum-v1'
--resume runs/td3 --total-timesteps 79          | can only grow
--resume runs/td3 --runs-dir elsewhere          | --runs-dir is
--resume runs/td3 --training-wrappers RoadRules | --training-wrappers is
--resume runs/td3 --config range.yaml           | --gamma is 0.99
--resume runs/td3 --num-threads 0               | --num-threads must be at least 1
--resume runs/td3 --device cpu:5                | --device cpu:5 is not available
--resume runs/td3 --eval-episodes 0             | --eval-episodes must be at least 1
""",
    "sac_drq": """
{short} --target-entropy nan                    | --target-entropy must be a finite number
{short} --target-entropy 5                      | --target-entropy must be above -20 and below 0.693
{short} --target-entropy 0.7                    | --target-entropy must be above
{short} --target-entropy -1e6                   | --target-entropy must be above
{short} --initial-alpha 0                       | --initial-alpha must be above 0
{short} --initial-alpha nan                     | --initial-alpha must be a finite number
{short} --shift-pad 1e6                         | --shift-pad must be at most
{short} --feature-dim 1e9                       | --feature-dim must be at most
{short} --encoder-channels 0                    | --encoder-channels must be at least 1
--resume runs/ppo_continuous                    | resume it with that script
--resume runs/sac_drq --target-entropy -2       | --target-entropy is None
""",
    "ddpg": """
{short} --batch-norm --batch-size 1             | --batch-size must be at least 2
{short} --weight-decay -1                       | --weight-decay
{short} --tau 2                                 | --tau must be at most 1
--resume runs/td3                               | resume it with that script
""",
    "ppo_continuous": """
{short} --initial-log-std 1000                  | --initial-log-std must be at most 10
{short} --num-steps 0                           | --num-steps must be at least 1
{short} --num-steps 1e15                        | the largest that fits is --num-steps
{short} --num-steps 3 --num-minibatches 1       | --num-steps must be at least 4, not 3
{short} --num-steps 1 --num-envs 2              | --num-steps must be at least 2, not 1
{short} --num-steps 8 --num-minibatches 5       | --num-minibatches must be at most
{short} --num-minibatches 1e6                   | --num-minibatches must be at most
{short} --num-epochs 1e9                        | --num-epochs must be at most
{short} --clip-coef nan                         | --clip-coef must be a finite number
{short} --gae-lambda 2                          | --gae-lambda must be at most 1
{short} --policy cauchy                         | --policy
{short} --target-kl -1                          | --target-kl must be above 0
--resume runs/td3                               | resume it with that script
""",
    "dqn_atari_style": """
{short} --bins -3                               | --bins must be at least 2
{short} --bins 10000000000                      | --bins must be at most
{short} --epsilon-end nan                       | --epsilon-end must be a finite number
{short} --target-update-frequency 0             | --target-update-frequency must be at least 1
--resume runs/rainbow                           | resume it with that script
""",
    "rainbow": """
{short} --components                            | --components must be one or more of
{short} --components double double              | each once
{short} --components double,per                 | --components
{short} --components all                        | --components
{short} --components DOUBLE                     | --components
{short} --num-atoms 1                           | --num-atoms must be at least 2
{short} --v-min 5 --v-max 5                     | --v-max must be greater than --v-min
{short} --v-max 1e400                           | --v-max must be a finite number
--resume runs/dqn_atari_style                   | resume it with that script
""",
    "evaluate": """
                                                | Required options
nowhere                                         | There is no checkpoint at nowhere
''                                              | There is no checkpoint
{long}                                          | There is no checkpoint
empty                                           | There is no checkpoint at empty/last.pt
folder.pt                                       | There is no checkpoint at folder.pt/last.pt
notes.txt                                       | notes.txt is damaged
empty.pt                                        | empty.pt is damaged
foreign.pt                                      | foreign.pt is damaged
tensor.pt                                       | tensor.pt is damaged
module.pt                                       | module.pt is damaged
runs/td3 runs/ddpg                              | runs/ddpg
runs/td3/replay-80.npz                          | is damaged
runs/td3 --episodes 0                           | --episodes must be at least 1
runs/td3 --episodes nan                         | --episodes
runs/td3 --episodes 1e30                        | --episodes must be at most
runs/td3 --seed -1                              | --seed must be at least 0
runs/td3 --seed 4294967295 --episodes 2         | --seed must be at most 4294967294,
runs/td3 --device cpu:5                         | --device cpu:5 is not available
runs/td3 --render --save-video                  | choose one of them
runs/td3 --export-onnx folder.pt                | it is not a file
runs/td3 --export-onnx ''                       | it is not a file
runs/td3 --export-onnx nowhere/x.onnx           | there is no folder nowhere
runs/td3 --export-torch /dev/null               | it is not a file
runs/td3 --export-torch notes.txt/x             | there is no folder notes.txt
runs/td3 --export-torch runs/td3/best.pt        | runs/td3/best.pt is a checkpoint
runs/td3 --export-onnx x --export-torch x       | x cannot hold two exports
runs/td3 --export-onnx x --push-to-hub a/b      | --push-to-hub needs episodes
runs/td3 --export-torch x --save-video          | --save-video needs episodes
newer.pt                                        | does not fit this version of td3.py: its
number.pt                                       | number.pt is damaged: its environment's id is no text
wrapped.pt                                      | wrapped.pt is damaged: its environment's wrappers
torn --push-to-hub a/b --dry-run out            | evaluations.csv has lines that cannot be read
runs/td3 --dry-run out                          | --dry-run goes with --push-to-hub
runs/td3 --push-to-hub ''                       | is not the name of a repository
runs/td3 --push-to-hub name                     | is not the name of a repository
runs/td3 --push-to-hub ü/b --dry-run out        | is not the name of a repository
runs/td3 --push-to-hub a/b --dry-run full       | full
hf://                                           | hf://
hf://a/b/c/d                                    | hf://a/b/c/d
hf://../..                                      | hf://../..
https://huggingface.co/a/b                      | There is no checkpoint
""",
    "report": """
--results typo                                  | There is no run with an evaluation in --results typo
--results empty                                 | There is no run with an evaluation
--results notes.txt                             | There is no run with an evaluation
--results results-no-evaluations                | There is no run with an evaluation
--results results-empty-table                   | There is no run with an evaluation
--results results-broken                        | is not a collected run (JSONDecodeError
--results results-of-a-list                     | is not a collected run
--results results-of-text                       | is not a collected run (ValueError
--results results-without-columns               | is not a collected run (KeyError
--results results-of-another                    | ppo2 is not a script
--results results-without-args                  | it lacks action_repeat, env_id
--results results-unscored                      | it lacks return_mean, return_std
--results results-foreign                       | has lines that cannot be read: line 2
--results seeds                                 | is not a collected run
--out notes.txt                                 | notes.txt could not be written
--out /proc/x                                   | /proc/x could not be written
--readme nowhere.md --out out                   | --readme nowhere.md cannot be read
--readme notes.txt --out out                    | has no table
""",
    "collect": """
                                                | --runs must be at least one folder
nowhere                                         | There is no run with an evaluation in nowhere
runs/td3 nowhere                                | There is no run with an evaluation in nowhere
twins                                           | twins/a and twins/b both go to
notes.txt                                       | There is no run with an evaluation in notes.txt
results-no-evaluations                          | There is no run with an evaluation
results-broken                                  | has no args.json of a run
results-of-a-list                               | has no args.json of a run
results-empty-table                             | has no evaluation
results-torn --results results-whole            | has lines that cannot be read: line 2
folders --results results-whole                 | evaluations.csv cannot be read
spoilt --results results-whole --episodes 1     | spoilt/last.pt is damaged
results-whole --results in-the-way              | args.json could not be written
results-outside                                 | --name must be
runs/td3 --episodes -1                          | --episodes must be at least 0
runs/td3 --episodes nan                         | --episodes
runs/td3 --name ../x                            | --name must be
runs/td3 --name a/b                             | --name must be a name without slashes
runs/td3 --name ''                              | --name must be
runs/td3 --results notes.txt                    | could not be written
runs/td3 --results /proc/x                      | could not be written
""",
    "baseline": """
                                                | --env-ids must be at least one environment
Nope-v0                                         | Unknown environment 'Nope-v0'
Pendulum-v1 Nope-v0                             | Unknown environment 'Nope-v0'
Pendulum-v1 --episodes 0                        | --episodes must be at least 1
Pendulum-v1 --csv notes.txt                     | notes.txt holds other columns
Pendulum-v1 --csv binary.yaml                   | binary.yaml holds other columns
Pendulum-v1 --csv /proc/x                       | could not be written
""",
    "robustness": """
                                                | --runs must be at least one folder
nowhere                                         | There is no run in a corridor in nowhere
runs                                            | There is no run in a corridor in runs
""",
    "speed": """
--cleanrl notes.txt                             | --cleanrl notes.txt has no cleanrl/dqn_atari.py
--tasks                                         | --tasks must be one or more of
--tasks nope                                    | --tasks
--threads                                       | --threads must be
--threads 0                                     | --threads must be a tuple, each item at least 1
--rounds 0                                      | --rounds must be at least 1
--device cpu:5                                  | invalid choice 'cpu:5'
--csv folder.pt                                 | folder.pt could not be written
--csv notes.txt                                 | holds other columns
--csv /proc/x.csv                               | could not be written
""",
    "sweep": """
                                                | Required options
td4                                             | td4
td3 --trials 0                                  | --trials must be at least 1
td3 --workers -1                                | --workers must be at least 1
td3 --name ../..                                | --name must be
td3 --name ''                                   | --name must be
td3 --sweeps-dir notes.txt                      | could not be written
td3 --space nowhere.yaml                        | --space nowhere.yaml cannot be read
td3 --space binary.yaml                         | cannot be read
td3 --space space-list.yaml                     | declares nothing
td3 --space space-turned.yaml                   | from a number to a larger one
td3 --space space-key.yaml                      | did you mean gamma
td3 --space space-value.yaml                    | --gamma must be at most 1
td3 --space space-log.yaml                      | from above 0
td3 --space space-nan.yaml                      | finite
td3 --space space-infinite.yaml                 | finite
td3 --space space-step.yaml                     | must be a range
td3 --space space-lists.yaml                    | finite
td3 -- --env-id Nope-v0                         | Nope-v0
td3 -- --hidden-dim 0                           | --hidden-dim must be at least 1
td3 -- --device cpu:5                           | --device cpu:5 is not available
td3 -- --run-name x                             | --run-name is the sweep's own
td3 -- --runs-dir x                             | --runs-dir is the sweep's own
td3 -- --num-threads 2                          | --num-threads is the sweep's own
td3 -- --learning-rate 1e-4                     | --learning-rate is searched by
ddpg -- --no-batch_norm                         | --batch-norm is searched by
td3 -- --no-such                                | --no-such
""",
    "peer_curve": """
                                                | Required options
--peer sb4 --script td3                         | --peer
--peer sb3 --script td4                         | --script
--peer sb3 --script rainbow {short}             | has no counterpart of rainbow.py
--peer sb3 --script td3 --env-id Nope-v0        | Nope-v0
--peer sb3 --script td3 --env-id CartPole-v1    | discrete
--peer sb3 --script td3 --env-id CarRacing-v3   | --final-exploration-noise must be None
--peer sb3 --script td3 {short} --env-id CarRacing-v3 --final-exploration-noise None | --obs state
--peer sb3 --script td3 {short} --seed -1       | --seed must be at least 0
--peer sb3 --script td3 {short} --gamma nan     | --gamma must be a finite number
--peer sb3 --script td3 {short} --no-such       | --no-such
--peer sb3 --script td3 {short} --run-name ..   | --run-name must be
--peer sb3 --script td3 {short} --runs-dir /proc/x | cannot be created
--peer sb3 --script td3 --resume nowhere        | There is no checkpoint at nowhere
""",
    "launch": """
--workers 0                                     | --workers must be at least 1
--workers nan                                   | --workers
--threads -3                                    | --threads must be at least 1
--gpus nan                                      | --gpus must be at least 0
--engine kubernetes                             | --engine
--list --runs-dir nowhere                       | There is no folder
--list --runs-dir ''                            | --runs-dir must be a folder
--list --runs-dir {here}/notes.txt              | There is no folder
--list --runs-dir {here}/empty                  | There is no run in
< rm -rf /                                      | Each line must be `python SCRIPT
< python                                        | Each line must be
< echo 'hello                                   | is not a command
< python cleanrl_cc/td3.py                      | a --run-name of its own
< python cleanrl_cc/td3.py --run-name /etc      | must be a path below
< python cleanrl_cc/td3.py --run-name ..        | must be a path below
< python a.py --run-name a --resume runs/td3    | leave --resume out
< python a.py --run-name a --total-timesteps x  | is not a number of steps
< python a.py --run-name \\x00                   | cannot be printed
""",
    "zoo": """
nowhere                                         | There is no checkpoint at nowhere
notes.txt                                       | notes.txt is damaged
runs/td3 --episodes 0                           | --episodes must be at least 1
newer.pt --zoo scored --table out.md            | does not fit this version of td3.py
--zoo empty --table out.md                      | There is no score
--zoo unscored --table out.md                   | unscored/empty.json is no score of a policy
--zoo scored --table out.md                     | scored/td3-Pendulum-v1.pt is damaged
""",
    "car_racing_speed": """
--steps 0                                       | --steps must be at least 1
--rounds nan                                    | --rounds
""",
}
CASES = [
    (tool, *(part.strip() for part in line.rsplit("|", 1)))
    for tool, lines in TYPED.items()
    for line in lines.strip("\n").splitlines()
]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a run of every script and much that is none."""
    here = tmp_path_factory.mktemp("here")
    before = os.getcwd()
    os.chdir(here)
    for script in SCRIPTS:
        train(script, Path("runs", script), total_timesteps=80)
    for name in ("empty", "full", "folder.pt", "seeds/td3/Pendulum-v1/seed-one"):
        (here / name).mkdir(parents=True)
    texts = {"notes.txt": "mine\n", "full/notes.txt": "mine\n", "runs/file": "", "empty.pt": ""}
    texts |= {f"{name}.yaml": text for name, text in CONFIGS.items()}
    texts |= {f"{name}_module.py": text for name, text in MODULES.items()}
    texts |= {f"space-{name}.yaml": text for name, text in SPACES.items()}
    texts |= {
        "unscored/empty.json": "",
        "scored/td3-Pendulum-v1.json": "{}",
        "scored/td3-Pendulum-v1.pt": "mine",
    }
    texts |= {
        "results-unscored/td3/Pendulum-v1/seed-1/episodes-10.json": '{"global_step": 10, "episodes": []}'
    }
    texts |= {"results-foreign/baseline.csv": "a,b\n1,2\n"}
    texts |= {f"seeds/td3/Pendulum-v1/seed-one/{name}": "{}" for name in ("args.json", "evaluations.csv")}
    for name, (description, evaluations) in RESULTS.items():
        folder = f"results-{name}/td3/Pendulum-v1/seed-1"
        texts[f"{folder}/args.json"] = description
        if evaluations is not None:
            texts[f"{folder}/evaluations.csv"] = evaluations
    for name, text in texts.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    (here / "binary.yaml").write_bytes(bytes(range(256)))
    torch.save(torch.nn.Linear(2, 2).state_dict(), here / "foreign.pt")
    torch.save(torch.nn.Linear(2, 2), here / "module.pt")
    torch.save(torch.zeros(3), here / "tensor.pt")
    np.savez(here / "arrays", a=np.zeros(3))
    shutil.move(here / "arrays.npz", here / "arrays.pt")
    newer = load_checkpoint(here / "runs" / "td3" / "best.pt")
    for name, part in {
        "newer": {"weather": "rain"},
        "number": {"env_id": 5},
        "wrapped": {"wrappers": 5},
    }.items():
        save_checkpoint(here / f"{name}.pt", newer | {"recipe": newer["recipe"] | part})
    (here / "torn").mkdir()
    shutil.copy(here / "runs" / "td3" / "best.pt", here / "torn")
    (here / "torn" / "evaluations.csv").write_text(COLUMNS + "10,1,2,3\n20,1")
    for name in ("a", "b"):
        (here / "twins" / name).mkdir(parents=True)
        (here / "twins" / name / "args.json").write_text(WHOLE)
        (here / "twins" / name / "evaluations.csv").write_text(COLUMNS + "10,1,2,3\n")
    shutil.copytree(here / "runs" / "td3", here / "spoilt")
    (here / "spoilt" / "last.pt").write_bytes(b"spoilt")
    shutil.copytree(here / "results-whole", here / "folders")
    (here / "folders" / "td3" / "Pendulum-v1" / "seed-1" / "evaluations.csv").unlink()
    (here / "folders" / "td3" / "Pendulum-v1" / "seed-1" / "evaluations.csv").mkdir()
    (here / "in-the-way" / "td3" / "Pendulum-v1" / "seed-1" / "args.json").mkdir(parents=True)
    (here / "dangling").symlink_to("nowhere")
    (here / "loop").symlink_to("loop")
    yield here
    os.chdir(before)


def digest(folder: Path) -> str:
    """Of every name and every byte below a folder."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        whole.update(str(path).encode())
        if path.is_file() and "__pycache__" not in path.parts:
            whole.update(path.read_bytes())
    return whole.hexdigest()


def run_here(tool: str, words: list[str], monkeypatch):
    """The program as `python` runs it, but in this process."""
    path = ROOT / ("cleanrl_cc" if tool in (*SCRIPTS, "evaluate") else "benchmark") / f"{tool}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *words])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(ROOT / "benchmark")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.excepthook
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.excepthook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name in MODULES:
            sys.modules.pop(f"{name}_module", None)


def test_there_are_many():
    assert len(CASES) > 150 and len(set(CASES)) == len(CASES)
    assert {tool for tool, _, _ in CASES} > {*SCRIPTS, "evaluate", "launch", "report", "collect", "sweep"}


@pytest.mark.parametrize("tool, typed, word", CASES, ids=lambda text: text[:40] or "nothing")
def test_it_ends_in_a_sentence(tool, typed, word, here, monkeypatch, capsys):
    typed = typed.replace("{short}", SHORT).replace("{long}", "x" * 5000).replace("{here}", str(here))
    stdin = None
    if typed.startswith("<"):  # the launcher's list
        (here.parent / "list").write_text(typed[2:].replace("\\x00", "\0"))
        stdin = open(here.parent / "list")  # noqa: SIM115
        monkeypatch.setattr(sys, "stdin", stdin)
        typed = ""
    monkeypatch.chdir(here)
    before = digest(here)
    with pytest.raises(SystemExit) as caught:
        run_here(tool, shlex.split(typed), monkeypatch)
    code = caught.value.code
    told = capsys.readouterr().err
    if stdin:
        stdin.close()
    if code == 2:  # the parser shows a frame around its sentence
        assert "Traceback" not in told
    else:
        assert isinstance(code, str), f"exit code {code} instead of a sentence"
        assert "\n" not in code.strip() and code[-1] in ".?!", code
        assert told == "", "something was said before the error"
        told = code
    assert word in " ".join(told.replace("│", " ").split()), told
    assert digest(here) == before
    assert not (here / "executed").exists()


@pytest.mark.parametrize(
    "tool, typed, word",
    [
        (
            "rainbow",
            "--env-id Humanoid-v5 --bins 1024 --num-atoms 1024 --hidden-dim 4096",
            "memory",
        ),
        ("dqn_atari_style", "--env-id Pendulum-v1 --bins 1024 --hidden-dim 4096 --num-envs 0", "--num-envs"),
        ("evaluate", "notes.txt", "notes.txt is damaged"),
        ("ddpg", "--env-id Pendulum-v1 --run-name ..", "--run-name must be"),
    ],
)
def test_a_terminal_shows_no_more_than_that(tool, typed, word, here):
    before = digest(here)
    starts = start if tool in ("rainbow", "evaluate") else Fork  # as they are typed, imports and all
    process = starts(tool, shlex.split(typed))
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 1
    (line,) = stderr.strip().splitlines()
    assert word in line and digest(here) == before


def test_networks_that_memory_is_too_small_for_are_refused_before_they_take_it(here, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 10**6)
    words = shlex.split(f"{SHORT} --hidden-dim 1024")
    with pytest.raises(SystemExit, match="Networks of these sizes need more than the 0.0 GB"):
        run_here("td3", words, monkeypatch)
    torch.nn.Linear(1000, 1000)  # of anyone else are none of ours
