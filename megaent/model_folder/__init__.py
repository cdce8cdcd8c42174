"""What a Hugging Face folder says of its model, read in one place: actor, engine, tasks and conversion ask
here.

    json_file      a file's fields, by name and kind         rotary     how positions turn
    architecture   what decides the computation              stored     which tensors the files hold
    ends           where a response ends                     contents   whether weights and config.json agree
    tokenizer      text to ids and back                      template   a question as the model's chat
    hf_folder      tensors in and out

Nothing of a folder is executed or unpickled. All but tokenizer, template and hf_folder import neither torch
nor transformers, so that a folder that cannot be trained is refused within a second.
"""
