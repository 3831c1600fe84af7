"""The openai package against the job lm.

python openai_sdk.py LM_URL
"""

import sys

import openai


def main(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id == "lm"
    settings = {"model": "lm", "prompt": "def ", "max_tokens": 8, "seed": 1}
    first, again = (client.completions.create(**settings) for _ in range(2))
    assert first.choices[0].text == again.choices[0].text
    assert first.usage.completion_tokens == 8 and first.choices[0].finish_reason == "length"
    assert set(first.metadata) == {"release", "versions", "age_ms"}
    with client.completions.create(**settings, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == first.choices[0].text
    several = client.completions.create(model="lm", prompt=["a", "b"], max_tokens=1)
    assert [choice.index for choice in several.choices] == [0, 1]
    for kind, wrong in (
        (openai.NotFoundError, {"model": "other"}),
        (openai.BadRequestError, {"temperature": 9}),
    ):
        try:
            client.completions.create(**settings | wrong)
        except kind as error:
            assert error.body["message"]
        else:
            raise AssertionError(f"{wrong} was answered")
    print("models, completions of one and two prompts, streamed, 2 errors")


if __name__ == "__main__":
    main(*sys.argv[1:])
